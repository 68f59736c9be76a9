"""The guard on a pool made to trap a selector: a level that looks useful for ever and teaches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gps_ray.base.types import FloatArray, PublishedWeights, UpdateRequest, UpdateResult
from gps_ray.learning.simulated_learner import SimulatedLearner
from gps_ray.run.metrics import read_metrics
from gps_ray.weights.object_store import ObjectStorePayload
from tests.loop.ports import Killed, Run, results, simulated_config, simulated_data

# Two prompts in five are the trap; the others are solved four times in five at the start.
TRAP = (
    "rollout.simulated.trap_share=0.4",
    "rollout.simulated.initial_logit_mean=1.5",
    "rollout.simulated.initial_logit_std=0.5",
    "rollout.simulated.drift_per_version=0",
    "rollout.group_size=4",
    "rollout.prompts_per_chunk=16",
    "selection.selector=beta_mean",
    "selection.beta_counts.discount=1",
    "selection.num_prompts=16",
    "rollout.simulated.forgetting_rate=0.3",
    "run.num_steps=100",
    "evaluation.every_steps=50",
    "evaluation.num_probe_prompts=0",
    "checkpoint.every_steps=100",
)
GUARD = (
    "selection.guard.enabled=true",
    "selection.guard.window_groups=32",
    "selection.guard.confidence=0.95",
)


class _Learner:
    """The simulated learner as a port. ``skills`` [steps + 1]: what was added to the logits outside the trap."""

    def __init__(self, run: Run) -> None:
        self._learner = SimulatedLearner(run.config.rollout.simulated)
        self.skills: list[float] = []

    @property
    def version(self) -> int:
        return self._learner.policy_version

    async def update(self, request: UpdateRequest) -> UpdateResult:
        return self._learner.update(request.rollouts, request.admitted)

    async def publish(self) -> PublishedWeights:
        weights = self._learner.weights()
        self.skills.append(float(weights["skill"][0]))
        return PublishedWeights(policy_version=self.version, payload=ObjectStorePayload(arrays=weights))

    async def save(self, directory: Path) -> None:
        directory.mkdir()
        self._learner.save(directory)

    def load(self, directory: Path) -> None:
        self._learner.load(directory)

    async def export(self, directory: Path) -> None:
        self._learner.export(directory)


def _forgets(run: Run) -> None:
    run.learner = _Learner(run)  # type: ignore[assignment]


def _trapped(directory: Path, *overrides: str, **life: Any) -> Run:
    config = simulated_config(directory, *TRAP, *overrides)
    return Run(config, change=_forgets, data=simulated_data(num_pool=400), **life)


def _skills(run: Run) -> FloatArray:
    """After each step."""
    run()
    skills: list[float] = run.learner.skills[1:]  # type: ignore[attr-defined]
    return np.array(skills)


def test_what_a_trapped_selector_forgets_comes_back_with_the_guard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # As many even slots and a guard that may not act: it looks on while the prompts outside the trap are forgotten.
    idle = _skills(_trapped(tmp_path / "idle", *GUARD, "selection.guard.max_share=0.125"))
    assert idle[:10].max() > -0.7
    assert idle[60:].max() < -2.5

    caplog.clear()
    run = _trapped(tmp_path / "guarded", *GUARD)
    skills = _skills(run)
    np.testing.assert_array_equal(skills[:50], idle[:50])
    assert skills[50:70].min() < -2.5
    assert skills[80:].max() > -0.5
    assert skills[60:].mean() > idle[60:].mean() + 1.5

    rows = read_metrics(run.folder.metrics.path)[1:]
    shares, fallen = ([row[f"selection/guard_{name}"] for row in rows] for name in ("share", "is_fallen"))
    first = fallen.index(1.0)
    assert shares[:first] == [0.125] * first
    assert max(shares) == 1.0
    assert shares[-1] < 1.0
    assert rows[first]["selection/guard_fall_low"] > 0
    # Said once each time it changes, not at every step.
    changes = int(np.abs(np.diff(fallen)).sum())
    said = [message for message in caplog.messages if "selection.guard" in message]
    assert len(said) == changes >= 2
    assert said[0].startswith(f"step {rows[first]['step']:.0f}: ")


def test_a_guarded_run_that_was_killed_ends_the_same(tmp_path: Path) -> None:
    short = (*GUARD, "run.num_steps=60", "evaluation.every_steps=60", "checkpoint.every_steps=20")
    whole = _trapped(tmp_path / "whole", *short)
    whole()
    assert any(row.get("selection/guard_is_fallen") for row in read_metrics(whole.folder.metrics.path))
    with pytest.raises(Killed):
        _trapped(tmp_path / "killed", *short, kill_at=int(0.97 * len(whole.points)))()
    _trapped(tmp_path / "killed", *short, resume=True)()
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
