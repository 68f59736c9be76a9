from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from gps_ray.base.errors import CheckpointError, LearnerError
from gps_ray.base.types import Prompt
from gps_ray.config import SimulatedConfig
from gps_ray.learning.simulated_learner import SimulatedLearner
from gps_ray.rollout.simulated_engine import SimulatedPolicy
from gps_ray.weights.simulated_skill import in_trap
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


def test_with_a_trap_the_rest_is_forgotten_as_far_as_it_is_not_trained(tmp_path: Path) -> None:
    config = SimulatedConfig(trap_share=0.5, forgetting_logits=3.0, forgetting_rate=0.5)
    groups = make_groups([MIXED] * 40)
    trap = tuple(prompt_id for prompt_id in ids(groups) if in_trap(config, prompt_id))
    rest = tuple(set(ids(groups)) - set(trap))
    assert 10 < len(trap) < 30
    learner = SimulatedLearner(config)
    for _ in range(20):
        learner.update(make_tables(groups), trap)
    assert learner.weights()["skill"] == pytest.approx(-3.0, abs=1e-4)
    learner.save(tmp_path)
    resumed = SimulatedLearner(config)
    resumed.load(tmp_path)
    for each in (learner, resumed):
        each.update(make_tables(groups), rest)
        assert each.weights()["skill"] == pytest.approx(-1.5, abs=1e-4)
    prompts = [Prompt(prompt_id=name, text=name, answer="", task="") for name in (*trap, *rest)]
    policy = SimulatedPolicy(config)
    rates = policy.success_rates(prompts, 3, -1.5)
    np.testing.assert_array_equal(rates[: len(trap)], 0.5)
    lost = logit(rates) - logit(policy.success_rates(prompts, 3))
    np.testing.assert_allclose(lost[len(trap) :], -1.5)
    # Without a trap there is nothing to publish.
    assert SimulatedLearner().weights() == {}


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "simulated_policy.json").write_text("{}")
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="expected a saved simulated policy"):
            SimulatedLearner().load(directory)
