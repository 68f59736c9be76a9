"""The pool's road from a request to chunks, over workers that live on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from gps_ray.base.errors import DeadlineError, RolloutError
from gps_ray.base.types import Chunk, ChunkHeader, GenerateRequest, PublishedWeights
from gps_ray.base.virtual_time import run_in_virtual_time
from gps_ray.config import RolloutConfig
from gps_ray.rollout.chunk import ChunkRequest
from gps_ray.rollout.pool import WorkerLost, WorkerPool
from tests.unit.rollout.stepped_engine import SAMPLING, prompt_of

PROMPTS = {f"p{i:02d}": prompt_of(f"p{i:02d}") for i in range(12)}
LOAD_S = 1.0


def _now() -> float:
    return asyncio.get_running_loop().time()


class World:
    """What all workers of a pool share: seconds per prompt, who is to die of what, and what happened when."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = seconds or {}
        self.log: list[tuple[float, str, int, Any]] = []
        self.workers: dict[int, Worker] = {}
        self.failing_loads = 0
        self.loads_end_with: Exception | None = None

    def spawn(self, index: int, number: int) -> Worker:
        self.workers[index] = Worker(self, index)
        return self.workers[index]

    def happened(self, what: str) -> list[tuple[float, int, Any]]:
        return [(at, worker, value) for at, kind, worker, value in self.log if kind == what]


class Worker:
    """Takes ``World.seconds`` per chunk (1 where none are said), chunks side by side; four rollouts at a time."""

    PLACES = 4

    def __init__(self, world: World, index: int) -> None:
        self._world, self._index = world, index
        self._lost = asyncio.Event()
        self._free = asyncio.Condition()
        self._running = self._received = 0
        self.version: int | None = None

    def note(self, what: str, value: Any) -> None:
        self._world.log.append((_now(), what, self._index, value))

    async def ready(self) -> None:
        await asyncio.sleep(0.5)

    async def load_weights(self, published: PublishedWeights) -> None:
        assert self._running == 0
        self.note("load", published.policy_version)
        await asyncio.sleep(LOAD_S)
        if self._world.loads_end_with is not None:
            raise self._world.loads_end_with
        if self._world.failing_loads:
            self._world.failing_loads -= 1
            raise WorkerLost("lost while loading")
        self.version = published.policy_version

    async def run(self, chunk: ChunkRequest) -> Chunk:
        names = tuple(prompt.prompt_id for prompt in chunk.prompts)
        assert self.version == chunk.policy_version
        self._received += 1
        self._running += int(chunk.num_rollouts.sum())
        self.note("run", names)
        try:
            await self._or_lost(asyncio.sleep(max(self._world.seconds.get(name, 1.0) for name in names)))
        finally:
            self._running -= int(chunk.num_rollouts.sum())
            async with self._free:
                self._free.notify_all()
        self.note("done", names)
        zeros = np.zeros(len(names), np.int32)
        header = ChunkHeader(
            chunk_id=chunk.chunk_id,
            step=chunk.step,
            stream=chunk.stream,
            policy_version=chunk.policy_version,
            prompt_ids=names,
            num_right=chunk.num_rollouts,
            num_wrong=zeros,
            num_failed=zeros,
            num_truncated=zeros,
            num_response_tokens=zeros,
            reward_sum=zeros.astype(np.float64),
            cpu_s=0.0,
            wall_s=0.0,
        )
        return Chunk(header=header, outcomes=None, rollouts=None)

    async def room(self, num_sent: int) -> int:
        async with self._free:
            await self._free.wait_for(lambda: self._received >= num_sent and self._running < self.PLACES)
        return self.PLACES - self._running

    def lose(self) -> None:
        self._lost.set()

    def end(self) -> None:
        self._lost.set()

    async def _or_lost(self, work: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.ensure_future(work), asyncio.ensure_future(self._lost.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if self._lost.is_set():
            raise WorkerLost("its process ended")


def _request(num: int, version: int = 0, step: int = 1, **changes: Any) -> GenerateRequest:
    values: dict[str, Any] = {
        "step": step,
        "stream": "rollout",
        "prompt_ids": tuple(PROMPTS)[:num],
        "num_rollouts": np.full(num, 2, np.int32),
        "policy_version": version,
        "sampling": SAMPLING,
    }
    return GenerateRequest(**(values | changes))


def _published(version: int) -> PublishedWeights:
    return PublishedWeights(policy_version=version, payload=None)


async def _all(pool: WorkerPool, request: GenerateRequest) -> list[str]:
    """Prompts in the order in which they came."""
    return [name async for chunk in pool.generate(request) for name in chunk.header.prompt_ids]


def _config(engine: str, **changes: Any) -> RolloutConfig:
    vllm = {"max_num_seqs": Worker.PLACES}
    return RolloutConfig.model_validate(
        {"engine": engine, "num_workers": 2, "prompts_per_chunk": 3, "vllm": vllm, **changes}
    )


async def _started(world: World, config: RolloutConfig, num_versions: int = 1) -> WorkerPool:
    pool = WorkerPool(config, world.spawn, {"": PROMPTS}, num_versions)
    await pool.start()
    await pool.load_weights(_published(0))
    return pool


@pytest.mark.parametrize(("engine", "sizes"), [("torch", {3}), ("vllm", {1})])
def test_the_unit_of_dispatch_is_the_engines(engine: str, sizes: set[int]) -> None:
    world = World()

    async def main() -> None:
        pool = await _started(world, _config(engine))
        assert sorted(await _all(pool, _request(12))) == sorted(PROMPTS)
        assert {len(names) for _, _, names in world.happened("run")} == sizes
        assert pool.metrics()["rollout/num_healthy_workers"] == 2

    run_in_virtual_time(main())


def test_groups_leave_as_they_finish_and_others_take_their_places() -> None:
    world = World({"p00": 10.0, "p01": 3.0, "p02": 1.0, "p03": 1.0, "p04": 1.0, "p05": 1.0})

    async def main() -> None:
        pool = await _started(world, _config("vllm"))
        begin = _now()
        expected = np.array([world.seconds[name] for name in tuple(PROMPTS)[:6]])
        came = await _all(pool, _request(6, expected_lengths=expected))
        # The longest first, one on each worker, then where there is least to do; nothing waits for p00.
        assert came[-2:] == ["p01", "p00"]
        assert _now() - begin == pytest.approx(10.0)
        started = {names[0]: at - begin for at, _, names in world.happened("run")}
        assert {name: round(at, 6) for name, at in started.items()} == {
            "p00": 0, "p01": 0, "p02": 0, "p03": 0, "p04": 1, "p05": 1
        }  # fmt: skip

    run_in_virtual_time(main())


def test_a_worker_goes_on_with_the_next_version_while_another_finishes() -> None:
    world = World({"p00": 20.0})

    async def main() -> None:
        pool = await _started(world, _config("vllm"), num_versions=2)
        begin = _now()
        first = asyncio.ensure_future(_all(pool, _request(2)))
        await asyncio.sleep(2)
        loading = asyncio.ensure_future(pool.load_weights(_published(1)))
        second = await _all(pool, _request(4, version=1, step=2, prompt_ids=("p04", "p05", "p06", "p07")))
        assert loading.done()  # worker 0 has something left and is not waited for
        assert (sorted(second), first.done()) == (["p04", "p05", "p06", "p07"], False)
        assert await first == ["p01", "p00"]
        assert _now() - begin == pytest.approx(20.0)
        loads = [(round(at - begin, 6), worker, version) for at, worker, version in world.happened("load")]
        # Once worker 0 has nothing left it loads what is newest, before that is asked of it.
        assert loads[2:] == [(2.0, 1, 1), (20.0, 0, 1)]

    run_in_virtual_time(main())


def test_a_request_leaves_workers_to_the_next_version_where_it_fits_on_fewer() -> None:
    world = World(dict.fromkeys(PROMPTS, 10.0))

    async def main() -> None:
        pool = await _started(world, _config("vllm", num_workers=4), num_versions=2)
        begin = _now()
        first = asyncio.ensure_future(_all(pool, _request(4, num_followers=1)))
        await asyncio.sleep(0)
        await asyncio.gather(pool.load_weights(_published(1)), _all(pool, _request(4, version=1, step=2)))
        await first
        # Eight rollouts fit on two workers of four places; the next version has the other two, side by side.
        assert {worker for _, worker, _ in world.happened("run")[:4]} == {0, 1}
        assert {worker for _, worker, _ in world.happened("run")[4:]} == {2, 3}
        assert _now() - begin == pytest.approx(10.0 + LOAD_S)

    run_in_virtual_time(main())


@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_a_lost_worker_is_replaced_and_every_prompt_comes_once(engine: str) -> None:
    world = World({"p00": 6.0, "p03": 6.0})

    async def main() -> None:
        pool = await _started(world, _config(engine))
        asking = asyncio.ensure_future(_all(pool, _request(12)))
        await asyncio.sleep(0.6)
        world.workers[0].lose()
        assert sorted(await asking) == sorted(PROMPTS)
        assert pool.metrics()["rollout/num_restarts"] == 1
        await pool.load_weights(_published(1))
        assert [worker.version for worker in world.workers.values()] == [1, 1]

    run_in_virtual_time(main())


def test_a_chunk_over_its_deadline_costs_its_worker_alone() -> None:
    world = World()
    late = DeadlineError("chunk 0 did not answer")

    async def main() -> None:
        pool = await _started(world, _config("vllm"))
        run = world.workers[0].run

        async def first_is_late(chunk: ChunkRequest) -> Chunk:
            await run(chunk)
            raise late

        world.workers[0].run = first_is_late  # type: ignore[method-assign]
        assert sorted(await _all(pool, _request(6))) == sorted(PROMPTS)[:6]
        assert pool.metrics()["rollout/num_restarts"] == 1

    run_in_virtual_time(main())


def test_a_worker_lost_while_it_loads_is_replaced_until_that_is_hopeless() -> None:
    world = World()

    async def main() -> None:
        pool = await _started(world, _config("vllm", max_chunk_attempts=3))
        world.failing_loads = 2
        await pool.load_weights(_published(1))
        assert [worker.version for worker in world.workers.values()] == [1, 1]
        world.failing_loads = 100
        with pytest.raises(RolloutError, match=r"lost 4 times before it served any weights.*lost while loading"):
            await pool.load_weights(_published(2))
        # A pool that failed says so to whoever comes.
        with pytest.raises(RolloutError, match="lost 4 times"):
            await _all(pool, _request(1))

    run_in_virtual_time(main())


def test_weights_that_did_not_arrive_whole_end_the_run_also_where_nobody_waits_for_them() -> None:
    world = World({"p00": 9.0})

    async def main() -> None:
        pool = await _started(world, _config("vllm"), num_versions=2)
        asking = asyncio.ensure_future(_all(pool, _request(1)))
        await asyncio.sleep(1)
        world.loads_end_with = RolloutError("rollout.probe_tolerance")
        with pytest.raises(RolloutError, match="probe_tolerance"):
            await pool.load_weights(_published(1))
        with pytest.raises(RolloutError, match="probe_tolerance"):
            await asking

    run_in_virtual_time(main())


def test_who_stops_asking_is_not_served_any_more() -> None:
    world = World()

    async def main() -> None:
        pool = await _started(world, _config("vllm"))
        chunks = pool.generate(_request(12))
        async for _ in chunks:
            break
        await chunks.aclose()
        await asyncio.sleep(5)
        assert len(world.happened("run")) < 12
        assert sorted(await _all(pool, _request(2))) == ["p00", "p01"]

    run_in_virtual_time(main())


def test_a_restarted_worker_loads_the_version_that_is_still_asked_for() -> None:
    world = World({"p00": 20.0})

    async def main() -> None:
        pool = await _started(world, _config("vllm"), num_versions=2)
        first = asyncio.ensure_future(_all(pool, _request(1)))
        await asyncio.sleep(1)
        await pool.load_weights(_published(1))
        world.workers[0].lose()
        assert await first == ["p00"]
        # Its work went to whoever was free first, which had to go back to version 0 for it.
        assert 0 in [version for at, _, version in world.happened("load") if at > 2]

    run_in_virtual_time(main())
