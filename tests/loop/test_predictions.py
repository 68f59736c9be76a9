"""What the selector predicted reaches the learner with the update, from before the rollouts, in every life of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gps_ray.base.types import Selection, SuccessPrediction, UpdateRequest, UpdateResult
from gps_ray.loop.predictions import UNKNOWN, success_predictions
from tests.loop.ports import Killed, Run, simulated_config

BETA = ("selection.selector=beta_mean", "selection.beta_counts.discount=1", "run.num_steps=6")


def _recorded(directory: Path, *overrides: str, **life: Any) -> dict[int, dict[str, SuccessPrediction]]:
    """Predictions of each update by step."""
    found: dict[int, dict[str, SuccessPrediction]] = {}

    def change(run: Run) -> None:
        update = run.learner.update

        async def recording(request: UpdateRequest) -> UpdateResult:
            found[request.step] = dict(request.predictions)
            assert set(request.predictions) == set(request.admitted)
            return await update(request)

        run.learner.update = recording  # type: ignore[method-assign]

    try:
        Run(simulated_config(directory, *BETA, *overrides), change=change, **life)()
    except Killed:
        assert "kill_at" in life
    return found


@pytest.mark.parametrize("lag", [0, 1])
def test_predictions_are_those_of_the_selection(tmp_path: Path, lag: int) -> None:
    found = _recorded(tmp_path / "run", f"run.max_policy_lag={lag}")
    # Nothing had been observed when the first were selected, one more step with every step of lag.
    for step in range(1, 2 + lag):
        assert set(found[step].values()) == {UNKNOWN}
    # Sixty prompts of which eight a step were seen: with the counts of Beta(1, 1) unseen ones are at one half.
    later = [prediction for step in range(2 + lag, 7) for prediction in found[step].values()]
    assert {round(p.mean * (1 - p.mean) / p.std**2 - 1) for p in later} <= {2, 10, 18, 26}
    assert all(math.isfinite(p.mean) and p.std > 0 for p in later)


def test_a_resumed_run_predicts_the_same(tmp_path: Path) -> None:
    whole = _recorded(tmp_path / "whole")
    killed = _recorded(tmp_path / "killed", kill_at=40)
    resumed = _recorded(tmp_path / "killed", resume=True)
    assert 0 < len(resumed) < 6
    assert {**killed, **resumed} == whole


def test_a_prompt_that_a_selector_with_outcomes_says_nothing_of_is_left_out() -> None:
    selection = Selection(
        step=3,
        round=0,
        prompt_ids=("a", "b", "c"),
        num_rollouts=np.ones(3, dtype=np.int32),
        predicted_mean=np.array([0.25, np.nan, 0.5]),
        predicted_std=np.array([0.1, np.nan, 0.1]),
        slot_kind=np.zeros(3, dtype=np.int8),
        num_candidates=3,
        num_steps_observed=2,
    )
    assert success_predictions([selection], {"a", "b"}) == {"a": SuccessPrediction(mean=0.25, std=0.1)}
