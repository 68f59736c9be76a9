"""The rollout-worker pool as the loop sees it: all Ray calls around the pure state machine of ``rollout.dispatch``."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from actors.deadlines import within
from actors.placement import rank_group, worker_options
from actors.rollout_worker import RolloutWorker, WorkerSpec
from gps_ray.base.errors import DeadlineError, RolloutError
from gps_ray.base.types import Chunk, GenerateRequest, Prompt, PublishedWeights
from gps_ray.loop.suites import Suite
from gps_ray.rollout.chunk import ChunkRequest, cut_chunks
from gps_ray.rollout.dispatch import Dispatcher, WorkerState
from gps_ray.run.status import WorkerStatus

__all__ = ["RayRolloutPool"]

log = logging.getLogger(__name__)

# Chunks of a worker that its speed is measured by.
_NUM_TIMED_CHUNKS = 16


class RayRolloutPool:
    """Spawns the workers, keeps them alive and hands out chunks.

    A worker that dies or overruns its deadline is replaced; its chunks go to whoever is free, with the same seeds. The
    replacement serves nothing before it has loaded the current weights.
    """

    def __init__(
        self, run_name: str, spec: WorkerSpec, prompts: Mapping[str, Prompt], suites: Sequence[Suite] = ()
    ) -> None:
        self._run_name = run_name
        self._spec = spec
        self._config = spec.rollout
        # By suite: one id in two sets may have different extra_info, which a verifier reads.
        self._prompts = {"": prompts, **{s.key: {p.prompt_id: p for p in s.prompts} for s in suites}}
        self._published: PublishedWeights | None = None
        self._num_restarts = 0
        self._num_restarts_of = [0] * self._config.num_workers
        # (response tokens, seconds of the worker's own) of its newest chunks.
        self._timed: list[deque[tuple[int, float]]] = [
            deque(maxlen=_NUM_TIMED_CHUNKS) for _ in range(self._config.num_workers)
        ]
        self._watchers: tuple[Callable[[], None], ...] = ()
        self._max_queue_depth = 0
        self._restarting: dict[int, asyncio.Task[None]] = {}
        self._dispatcher = Dispatcher(
            num_workers=self._config.num_workers, max_chunk_attempts=self._config.max_chunk_attempts
        )
        self._groups: dict[int, PlacementGroup | None] = {}
        self._names: dict[int, str] = {}
        self._workers = [self._spawn(index) for index in range(self._config.num_workers)]

    def _spawn(self, index: int) -> Any:
        suffix = f".{self._num_restarts}" if self._num_restarts else ""
        self._names[index] = f"rollout-worker-{index}{suffix}"
        self._groups[index] = rank_group(self._config)
        return (
            ray.remote(RolloutWorker)
            .options(
                name=f"{self._run_name}/{self._names[index]}",
                **worker_options(self._config, self._groups[index]),
            )
            .remote(self._spec)
        )

    def _end(self, index: int) -> None:
        """End a worker and give back what it held."""
        ray.kill(self._workers[index])
        group = self._groups[index]
        if group is not None:
            remove_placement_group(group)

    async def start(self) -> None:
        """Wait until every engine is up. One that cannot start is an error: it would fail again."""
        await asyncio.gather(*(self._ready(index) for index in range(len(self._workers))))

    async def _ready(self, index: int) -> None:
        try:
            await within(
                self._config.start_deadline_s,
                self._workers[index].ready.remote(),
                f"rollout worker {index}",
                "rollout.start_deadline_s",
            )
        except RayActorError as error:
            raise RolloutError(
                f"rollout worker {index} did not start: {_last_line(error)}; look at model.path and rollout.engine"
            ) from error
        self._dispatcher.worker_restarted(index)

    async def load_weights(self, published: PublishedWeights) -> None:
        self._published = published
        self._dispatcher.publish(published.policy_version)
        await asyncio.gather(*(self._bring_up_to_date(index) for index in range(len(self._workers))))

    async def serve_model_directory(self) -> None:
        """Serve the weights that the engines came up with, as version 0: where no learner publishes any."""
        self._dispatcher.publish(0)
        await asyncio.gather(*(self._bring_up_to_date(index) for index in range(len(self._workers))))

    async def _bring_up_to_date(self, index: int) -> None:
        if index in self._restarting:
            await self._restarting.pop(index)
        if self._dispatcher.state(index) is WorkerState.HEALTHY:
            return
        try:
            await self._load(index)
        except RayActorError as error:
            self._replace(index, _last_line(error))
            await self._restarting.pop(index)

    async def _load(self, index: int) -> None:
        published = self._published
        if published is None:
            self._dispatcher.loaded(index, 0)
            return
        await within(
            self._config.start_deadline_s,
            self._workers[index].load_weights.remote(replace(published, payload=None), published.payload),
            f"rollout worker {index} loading weights",
            "rollout.start_deadline_s",
        )
        self._dispatcher.loaded(index, published.policy_version)

    def _replace(self, index: int, reason: str) -> None:
        """Give a worker up and start another in its place, which comes up and loads the weights on its own."""
        log.warning("rollout worker %d is replaced: %s", index, reason)
        self._dispatcher.worker_died(index)
        self._end(index)
        self._num_restarts += 1
        self._num_restarts_of[index] += 1
        self._timed[index].clear()
        self._workers[index] = self._spawn(index)
        self._restarting[index] = asyncio.ensure_future(self._come_up(index))
        self._tell_watchers()

    async def _come_up(self, index: int) -> None:
        await self._ready(index)
        await self._load(index)
        self._tell_watchers()

    def actors(self) -> dict[str, tuple[Any, Mapping[str, float]]]:
        """Handle and needs of each worker that asks Ray for a place itself, by name."""
        needs = {"CPU": self._config.num_cpus_per_worker, "GPU": self._config.num_gpus_per_worker}
        return {
            self._names[index]: (worker, needs)
            for index, worker in enumerate(self._workers)
            if self._groups[index] is None
        }

    def when_workers_change(self, *watchers: Callable[[], None]) -> None:
        """Call ``watchers`` whenever a worker is given up, and when the one in its place serves."""
        self._watchers = watchers

    def _tell_watchers(self) -> None:
        for tell in self._watchers:
            tell()

    def workers(self) -> list[WorkerStatus]:
        """How each worker is, as of now."""
        return [
            WorkerStatus(
                name=self._names[index],
                state=self._dispatcher.state(index).value,
                num_restarts=self._num_restarts_of[index],
                num_in_flight=self._dispatcher.num_in_flight(index),
                tokens_per_s=_rate(self._timed[index]),
            )
            for index in range(len(self._workers))
        ]

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they finish. Every requested prompt comes exactly once, also where workers die on the way."""
        chunks = cut_chunks(request, self._prompts[request.suite], self._config.prompts_per_chunk)
        self._dispatcher.submit(chunks)
        self._max_queue_depth = self._dispatcher.num_pending
        running: dict[asyncio.Task[Chunk], tuple[int, ChunkRequest]] = {}
        while not self._dispatcher.is_done:
            for index, chunk in self._dispatcher.assign():
                running[asyncio.ensure_future(self._run(index, chunk))] = (index, chunk)
            finished, _ = await asyncio.wait(
                {*running, *self._restarting.values()}, return_when=asyncio.FIRST_COMPLETED
            )
            for index in [i for i, task in self._restarting.items() if task in finished]:
                self._restarting.pop(index).result()
            for task in [task for task in running if task in finished]:
                index, chunk = running.pop(task)
                result = self._result(task, index, chunk)
                if result is not None and self._dispatcher.finished(index, chunk.chunk_id):
                    yield result

    def _result(self, task: asyncio.Task[Chunk], index: int, chunk: ChunkRequest) -> Chunk | None:
        """A finished chunk; None where its worker died or overran, which is then replaced."""
        try:
            return task.result()
        except (DeadlineError, RayActorError) as error:
            # Several chunks of one dead worker fail together: only the first one replaces it.
            if self._dispatcher.is_in_flight(index, chunk.chunk_id):
                self._replace(index, _last_line(error))
            return None

    async def _run(self, index: int, chunk: ChunkRequest) -> Chunk:
        header, outcomes, rollouts = self._workers[index].run.options(num_returns=3).remote(chunk)
        value = await within(
            self._config.chunk_deadline_s,
            header,
            _of_chunk(chunk, self._names[index]),
            "rollout.chunk_deadline_s",
        )
        self._timed[index].append((int(value.num_response_tokens.sum()), value.wall_s))
        return Chunk(header=value, outcomes=outcomes, rollouts=rollouts)

    def metrics(self) -> Mapping[str, float]:
        return {
            "rollout/queue_depth": float(self._max_queue_depth),
            "rollout/num_healthy_workers": float(self._dispatcher.num_served),
            "rollout/num_restarts": float(self._num_restarts),
        }

    def close(self) -> None:
        for index in range(len(self._workers)):
            self._end(index)


def _of_chunk(chunk: ChunkRequest, worker: str) -> str:
    ids = [prompt.prompt_id[:40] for prompt in chunk.prompts]
    more = f" and {len(ids) - 2} more" if len(ids) > 2 else ""
    return f"chunk {chunk.chunk_id} of step {chunk.step} (prompts {', '.join(ids[:2])}{more}) on {worker}"


def _rate(timed: Sequence[tuple[int, float]]) -> float | None:
    seconds = sum(second for _, second in timed)
    return sum(tokens for tokens, _ in timed) / seconds if seconds > 0 else None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
