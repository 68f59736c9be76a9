"""The seam of continuous engines: groups enter a running batch and leave one by one, judged beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import replace

import pytest

from gps_ray.base.errors import ModelError, RolloutError
from gps_ray.base.tables import groups_from_table
from gps_ray.base.types import Prompt, PublishedWeights, RolloutStatus
from gps_ray.config import RolloutConfig
from gps_ray.rollout.chunk import ChunkRequest, ChunkResult
from gps_ray.rollout.group_runner import GroupRunner
from gps_ray.tasks.interface import Verdict
from gps_ray.weights.object_store import ObjectStorePayload
from tests.unit.rollout.stepped_engine import SteppedEngine, group_chunk

WAIT_S = 60
V0 = PublishedWeights(policy_version=0, payload=None)
Start = Callable[..., tuple[GroupRunner, SteppedEngine]]


class SameTask:
    """Right if the response is the prompt's answer."""

    name = "t"
    bounds_its_own_work = True

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        return 1.0, RolloutStatus.RIGHT if response == prompt.answer else RolloutStatus.WRONG


def _run_together(runner: GroupRunner, engine: SteppedEngine, chunks: list[ChunkRequest]) -> list[Future[ChunkResult]]:
    """Submitted so that the engine takes all of them in before its first pass."""
    engine.may_load.clear()
    runner.load_weights(V0, ObjectStorePayload(arrays={}))
    runs = [runner.run(chunk) for chunk in chunks]
    engine.may_load.set()
    return runs


@pytest.fixture
def start() -> Iterator[Start]:
    runners: list[GroupRunner] = []

    def start(
        num_places: int,
        lengths: Mapping[str, list[int]],
        gate: threading.Semaphore | None = None,
    ) -> tuple[GroupRunner, SteppedEngine]:
        engines: list[SteppedEngine] = []

        def build() -> SteppedEngine:
            engines.append(SteppedEngine(num_places, lengths, gate))
            return engines[0]

        config = RolloutConfig(engine="vllm", max_response_tokens=99, num_verifiers=2, verify_deadline_s=60)
        runners.append(GroupRunner(build, SameTask(), config, run_seed=3))
        return runners[0], engines[0]

    yield start
    for runner in runners:
        runner.close()


def test_a_group_enters_as_places_become_free_and_leaves_at_once(start: Start) -> None:
    gate = threading.Semaphore(0)
    runner, engine = start(4, {"long": [9, 2], "short": [3, 3], "next": [2, 2]}, gate)
    runs = _run_together(runner, engine, [group_chunk(name, 2, i) for i, name in enumerate(("long", "short", "next"))])
    gate.release(20)
    headers = [run.result(WAIT_S)[0] for run in runs]
    # "next" took the place of long's second response after two passes, and that of a short one after three.
    assert engine.finished == [("short", 3), ("next", 5), ("long", 9)]
    assert engine.most_running == 4
    assert [header.prompt_ids for header in headers] == [("long",), ("short",), ("next",)]
    assert [header.num_response_tokens.tolist() for header in headers] == [[11], [6], [4]]
    assert [header.num_right.tolist() for header in headers] == [[2], [2], [2]]
    _, _, table = runs[0].result()
    assert [len(rollout.response_tokens) for rollout in groups_from_table(table)["long"]] == [9, 2]


def test_room_is_what_keeps_a_place_from_being_empty(start: Start) -> None:
    gate = threading.Semaphore(0)
    runner, engine = start(16, {"a": [1] * 8, "b": [4] * 8, "c": [4] * 8}, gate)
    assert runner.room(0).result(WAIT_S) == 16 + 2
    asked = runner.room(3)
    runs = _run_together(runner, engine, [group_chunk(name, 8, i) for i, name in enumerate("abc")])
    # 24 responses for 16 places, and one group that waits is enough: none is wanted until one response has ended.
    while runner.seconds_running(group_chunk("b", 8, 1).key) == 0:
        time.sleep(0.001)
    assert not asked.done()
    gate.release(1)
    assert asked.result(WAIT_S) == 8
    gate.release(9)
    wait(runs, WAIT_S)


def test_the_clock_of_a_group_starts_when_the_engine_begins_it(start: Start) -> None:
    gate = threading.Semaphore(0)
    runner, engine = start(1, {"a": [2], "b": [2]}, gate)
    first, second = group_chunk("a", 1, 0), group_chunk("b", 1, 1)
    runs = _run_together(runner, engine, [first, second])
    while runner.seconds_running(first.key) == 0:
        time.sleep(0.001)
    assert (runner.seconds_running(second.key), engine.num_passes) == (0, 0)
    gate.release(2)
    runs[0].result(WAIT_S)
    while runner.seconds_running(second.key) == 0:
        time.sleep(0.001)
    assert runner.seconds_running(first.key) == 0
    gate.release(2)
    runs[1].result(WAIT_S)


def test_weights_are_loaded_between_groups_and_a_group_of_other_weights_is_refused(start: Start) -> None:
    runner, engine = start(2, {"a": [1]})
    with pytest.raises(RolloutError, match="asks for policy version 1, this worker serves 0"):
        runner.run(group_chunk("a", 1, version=1)).result(WAIT_S)
    runner.load_weights(replace(V0, policy_version=1), ObjectStorePayload(arrays={})).result(WAIT_S)
    assert engine.version == 1
    assert runner.run(group_chunk("a", 1, version=1)).result(WAIT_S)[0].policy_version == 1


def test_a_group_that_does_not_fit_fails_alone(start: Start) -> None:
    runner, _ = start(2, {"a": [1]})
    with pytest.raises(RolloutError, match="no lengths for b"):
        runner.run(group_chunk("b", 1)).result(WAIT_S)
    assert runner.run(group_chunk("a", 1)).result(WAIT_S)[0].num_right.tolist() == [1]


def test_an_engine_that_fails_fails_all_that_it_owed_and_all_that_comes(start: Start) -> None:
    gate = threading.Semaphore(0)
    runner, engine = start(1, {"a": [2], "b": [2]}, gate)
    engine.fails_at = 2
    runs = _run_together(runner, engine, [group_chunk(name, 1, i) for i, name in enumerate("ab")])
    gate.release(2)
    for run in (*runs, runner.run(group_chunk("a", 1, 2))):
        with pytest.raises(RolloutError, match="out of memory"):
            run.result(WAIT_S)


def test_an_engine_that_cannot_be_built_says_why() -> None:
    def build() -> SteppedEngine:
        raise ModelError("no such folder")

    with pytest.raises(ModelError, match="no such folder"):
        GroupRunner(build, SameTask(), RolloutConfig(engine="vllm"), run_seed=0)
