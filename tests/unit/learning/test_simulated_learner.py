from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError, LearnerError
from gps_ray.learning.simulated_learner import SimulatedLearner
from tests.unit.learning.rollouts import ALL_RIGHT, MIXED, ids, make_groups, make_tables


def test_it_counts_what_would_have_been_trained_and_moves_its_version(tmp_path: Path) -> None:
    learner = SimulatedLearner()
    groups = make_groups([MIXED, ALL_RIGHT, MIXED])
    result = learner.update(make_tables(groups), ids(groups))
    assert result.policy_version == learner.policy_version == 1
    assert result.metrics["train/num_groups_trained"] == 2
    assert result.metrics["train/num_groups_equal_rewards"] == 1
    assert result.metrics["train/num_tokens_admitted"] == sum(int(g.outcome.response_lengths.sum()) for g in groups)
    with pytest.raises(LearnerError, match="p9"):
        learner.update(make_tables(groups), ("p9",))
    learner.save(tmp_path)
    resumed = SimulatedLearner()
    resumed.load(tmp_path)
    assert resumed.policy_version == 1
    resumed.export(tmp_path / "final_model")
    # What a finished run is known by, whatever made it.
    assert "simulated" in (tmp_path / "final_model" / "config.json").read_text()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "simulated_policy.json").write_text("{}")
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="expected a saved simulated policy"):
            SimulatedLearner().load(directory)
