"""Rollouts whose responses the pool's processes judge, and the trial of a verifier before the start."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import Prompt, Sampling
from gps_ray.config import RolloutConfig
from gps_ray.loop.guards import check_verifier
from gps_ray.rollout.chunk import ChunkRequest, ChunkRunner
from gps_ray.rollout.group_runner import GroupRunner
from tests.unit.rollout.own_task import ObedientTask, OwnTask, PatientTask
from tests.unit.rollout.scripted_engine import ScriptedEngine
from tests.unit.rollout.stepped_engine import SteppedEngine, group_chunk

pytestmark = pytest.mark.ray

WAIT_S = 60


def test_a_chunk_goes_on_without_a_verdict_that_does_not_come() -> None:
    chunk = ChunkRequest(
        chunk_id=0,
        step=1,
        stream="rollout",
        prompts=(Prompt(prompt_id="p", text="1 + 1", answer="2", task="own"),),
        num_rollouts=np.array([2], np.int32),
        policy_version=0,
        sampling=Sampling(temperature=1.0, max_response_tokens=9),
        num_samples_kept=0,
    )
    engine = ScriptedEngine({"p": ["hang", "3"]})
    with closing(ChunkRunner(engine, OwnTask(), RolloutConfig(verify_deadline_s=1), run_seed=0)) as runner:
        header, _, _ = runner.run(chunk)
    assert (header.num_failed.tolist(), header.num_wrong.tolist()) == ([1], [1])
    assert header.failure_reason == "no verdict within rollout.verify_deadline_s=1 s"


def _group_runner(num_places: int, lengths: Mapping[str, list[int]], task: object) -> GroupRunner:
    config = RolloutConfig(engine="vllm", max_response_tokens=99, num_verifiers=2, verify_deadline_s=60)
    return GroupRunner(lambda: SteppedEngine(num_places, lengths, None), task, config, run_seed=3)


def test_neither_engine_nor_other_groups_wait_for_a_verdict(tmp_path: Path) -> None:
    with closing(_group_runner(2, {"wait": [1], "quick": [5]}, PatientTask(tmp_path / "go"))) as runner:
        slow = runner.run(group_chunk("wait", 1, 0))
        quick = runner.run(group_chunk("quick", 1, 1))
        assert quick.result(WAIT_S)[0].num_right.tolist() == [1]
        assert not slow.done()
        (tmp_path / "go").touch()
        assert slow.result(WAIT_S)[0].num_right.tolist() == [1]


def test_groups_share_the_verifiers_processes() -> None:
    names = [f"p{i}" for i in range(6)]
    with closing(_group_runner(4, {name: [1] * 4 for name in names}, OwnTask())) as runner:
        runs = [runner.run(group_chunk(name, 4, i)) for i, name in enumerate(names)]
        wait(runs, WAIT_S)
    assert [run.result()[0].num_failed.tolist() for run in runs] == [[0]] * 6
    assert sum(run.result()[0].cpu_s for run in runs) > 0


SUMS = [Prompt(prompt_id=text, text=text, answer="42", task="own") for text in "abcde"]


def _check(behaviour: str, **changes: int) -> list[str]:
    return check_verifier(ObedientTask(behaviour), SUMS, RolloutConfig(verify_deadline_s=30, **changes))


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("raises", r"'own'.* gave no verdict on any of 12 responses: NameError: undefined_name; mend it"),
        ("exits", r"ended its process \(exit code 0\)"),
        ("always right", r"called every response right.*num_verifier_trials=0"),
    ],
)
def test_a_verifier_that_does_not_work_is_found_before_the_start(behaviour: str, said: str) -> None:
    with pytest.raises(RolloutError, match=said):
        _check(behaviour)
    assert _check(behaviour, num_verifier_trials=0) == []


def test_what_is_odd_about_a_verifier_is_said() -> None:
    assert _check("works") == []
    (missing,) = _check("raises on nothing")
    assert "no verdict on 3 of 12 responses: NameError" in missing
    (strange,) = _check("always wrong")
    assert "no response right that states the ground truth" in strange
