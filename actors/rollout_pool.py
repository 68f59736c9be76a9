"""Rollout workers as Ray actors: what ``rollout.pool`` asks of a worker, in remote calls with deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from actors.deadlines import death, within
from actors.placement import rank_group, worker_options
from actors.rollout_worker import MAX_CALLS, ContinuousRolloutWorker, RolloutWorker, WorkerSpec
from gps_ray.base.errors import DeadlineError, RolloutError
from gps_ray.base.types import Chunk, Prompt, PublishedWeights
from gps_ray.config import RolloutConfig
from gps_ray.loop.suites import Suite
from gps_ray.rollout.chunk import ChunkRequest
from gps_ray.rollout.pool import WorkerLost, WorkerPool, worker_name

__all__ = ["RayRolloutPool", "RayWorker"]

# How long a worker whose engine steps may take to say since when a group runs.
_ANSWER_S = 60.0


class RayWorker:
    """A ``WorkerPort`` (``gps_ray.rollout.pool``) around an actor; ``group`` is what was reserved for its ranks."""

    def __init__(self, index: int, actor: Any, config: RolloutConfig, group: PlacementGroup | None = None) -> None:
        self.actor = actor
        self._name = f"rollout worker {index}"
        self._config = config
        self.group = group
        # Where chunks are run one after the other: when the one before was done.
        self._before: asyncio.Event | None = None

    async def ready(self) -> None:
        try:
            await within(
                self._config.start_deadline_s, self.actor.ready.remote(), self._name, "rollout.start_deadline_s"
            )
        except RayActorError as error:
            raise RolloutError(
                f"{self._name} did not start: {death(error)}; look at model.path and rollout.engine"
            ) from error

    async def load_weights(self, published: PublishedWeights) -> None:
        reference = self.actor.load_weights.remote(replace(published, payload=None), published.payload)
        what = f"{self._name} loading weights"
        await self._answer(self._config.start_deadline_s, reference, what, "rollout.start_deadline_s")

    async def run(self, chunk: ChunkRequest) -> Chunk:
        """The deadline begins when the engine begins the chunk."""
        header, outcomes, rollouts = self.actor.run.options(num_returns=3).remote(chunk)
        wait = self._wait_in_place if self._config.batches_continuously else self._wait_in_turn
        return Chunk(header=await wait(chunk, header), outcomes=outcomes, rollouts=rollouts)

    async def room(self, num_sent: int) -> int:
        try:
            room: int = await asyncio.wrap_future(self.actor.room.remote(num_sent).future())
            return room
        except RayActorError as error:
            raise WorkerLost(death(error)) from error

    def end(self) -> None:
        ray.kill(self.actor)
        if self.group is not None:
            remove_placement_group(self.group)

    async def _wait_in_turn(self, chunk: ChunkRequest, header: Any) -> Any:
        """The actor runs one chunk at a time: the one before has to be done first."""
        before, done = self._before, asyncio.Event()
        self._before = done
        try:
            if before is not None:
                await before.wait()
            return await self._chunk_answer(chunk, header, self._config.chunk_deadline_s)
        finally:
            done.set()

    async def _wait_in_place(self, chunk: ChunkRequest, header: Any) -> Any:
        """The engine runs many groups at a time, and the actor knows since when it runs this one."""
        left = self._config.chunk_deadline_s
        while True:
            try:
                return await self._chunk_answer(chunk, header, left)
            except DeadlineError:
                asked = self.actor.seconds_running.remote(chunk.key)
                seconds = await self._answer(_ANSWER_S, asked, self._name, "rollout.chunk_deadline_s")
                left = self._config.chunk_deadline_s - seconds
                if left <= 0:
                    raise

    async def _chunk_answer(self, chunk: ChunkRequest, header: Any, deadline_s: float) -> Any:
        return await self._answer(deadline_s, header, _of_chunk(chunk, self._name), "rollout.chunk_deadline_s")

    async def _answer(self, deadline_s: float, reference: Any, what: str, key: str) -> Any:
        try:
            return await within(deadline_s, reference, what, key)
        except RayActorError as error:
            raise WorkerLost(death(error)) from error


class RayRolloutPool(WorkerPool):
    """``WorkerPool`` whose workers are actors, named ``run_name/rollout-worker-...``."""

    continuous_worker = ContinuousRolloutWorker  # where the engine batches continuously

    def __init__(
        self,
        run_name: str,
        spec: WorkerSpec,
        prompts: Mapping[str, Prompt],
        suites: Sequence[Suite] = (),
        num_versions: int = 1,
    ) -> None:
        self._run_name = run_name
        self._spec = spec
        self._newest: dict[int, tuple[str, RayWorker]] = {}  # by place
        # By suite: one id in two sets may have different extra_info, which a verifier reads.
        by_suite = {"": prompts, **{s.key: {p.prompt_id: p for p in s.prompts} for s in suites}}
        super().__init__(spec.rollout, self._spawn, by_suite, num_versions)

    def _spawn(self, index: int, number: int) -> RayWorker:
        config = self._spec.rollout
        group = rank_group(config)
        options = {
            "name": f"{self._run_name}/{worker_name(index, number)}",
            **worker_options(config, group),
        }
        if config.batches_continuously:
            actor = ray.remote(self.continuous_worker).options(**options, max_concurrency=MAX_CALLS)
        else:
            actor = ray.remote(RolloutWorker).options(**options)
        worker = RayWorker(index, actor.remote(self._spec), config, group)
        self._newest[index] = (worker_name(index, number), worker)
        return worker

    def actors(self) -> dict[str, tuple[Any, Mapping[str, float]]]:
        """Handle and needs of each worker that asks Ray for a place itself, by name."""
        config = self._spec.rollout
        needs = {"CPU": config.num_cpus_per_worker, "GPU": config.num_gpus_per_worker}
        return {name: (worker.actor, needs) for name, worker in self._newest.values() if worker.group is None}


def _of_chunk(chunk: ChunkRequest, worker: str) -> str:
    ids = [prompt.prompt_id[:40] for prompt in chunk.prompts]
    more = f" and {len(ids) - 2} more" if len(ids) > 2 else ""
    return f"chunk {chunk.chunk_id} of step {chunk.step} (prompts {', '.join(ids[:2])}{more}) on {worker}"
