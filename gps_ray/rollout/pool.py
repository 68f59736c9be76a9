"""The rollout pool: requests in, chunks out, over workers that may die, without Ray.

Everything that decides is in ``rollout.dispatch``; here are the tasks that wait for workers. After each event (a
request, a result, room, weights, a replacement) ``_advance`` starts whatever can be started.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gps_ray.base.errors import DeadlineError, RolloutError
from gps_ray.base.types import Chunk, GenerateRequest, Prompt, PublishedWeights
from gps_ray.config import RolloutConfig
from gps_ray.rollout.chunk import ChunkRequest, cut_chunks
from gps_ray.rollout.dispatch import Assignment, Dispatcher
from gps_ray.run.status import WorkerStatus

__all__ = ["WorkerLost", "WorkerPool", "WorkerPort", "worker_name"]

log = logging.getLogger(__name__)

# Chunks of a worker that its speed is measured by: those of the last batch and some.
_NUM_TIMED_CHUNKS = 16


def worker_name(index: int, number: int) -> str:
    """Of the worker in place ``index``; ``number`` counts the replacements of the pool, 0 for who was there first."""
    return f"rollout-worker-{index}" + (f".{number}" if number else "")


class WorkerLost(RolloutError):
    """A rollout worker's process is gone."""


class WorkerPort(Protocol):
    """One rollout worker. What waits for it raises WorkerLost once it is gone, DeadlineError where it takes too long,
    and its own GpsRayError as such."""

    async def ready(self) -> None:
        """Returns when its engine is up. Raises RolloutError where it cannot come up: it would fail again."""
        ...

    async def load_weights(self, published: PublishedWeights) -> None:
        """Returns when it serves them and its probe agreed. Nothing is under way there."""
        ...

    async def run(self, chunk: ChunkRequest) -> Chunk: ...

    async def room(self, num_sent: int) -> int:
        """How many rollouts it may be given besides the ``num_sent`` chunks that it was sent, once that is one or
        more. Asked only of workers whose engine batches continuously."""
        ...

    def end(self) -> None:
        """End it and give back what it held."""
        ...


@dataclass(slots=True)
class _Slot:
    """A worker's place in the pool: who is in it, and what was sent there."""

    worker: WorkerPort
    name: str
    num_restarts: int = 0
    num_lost: int = 0  # workers lost here one after the other that had not loaded any weights
    num_sent: int = 0
    is_asked_for_room: bool = False
    # (response tokens, seconds of the worker's own) of its newest chunks.
    timed: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_NUM_TIMED_CHUNKS))

    def tokens_per_s(self) -> float | None:
        seconds = sum(second for _, second in self.timed)
        return sum(tokens for tokens, _ in self.timed) / seconds if seconds > 0 else None


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request under way: its tickets, and what has come of them."""

    tickets: set[int]
    results: asyncio.Queue[Chunk | BaseException] = field(default_factory=asyncio.Queue)


class WorkerPool:
    """Spawns the workers, keeps them alive and hands out chunks.

    A worker that dies or overruns its deadline is replaced; its chunks go to whoever is free, with the same seeds. The
    replacement serves nothing before it has loaded weights. ``prompts``: by suite ("": the run's own), by id. Requests
    of different versions may be under way at a time, of the last ``num_versions`` that were published.
    """

    def __init__(
        self,
        config: RolloutConfig,
        spawn: Callable[[int, int], WorkerPort],
        prompts: Mapping[str, Mapping[str, Prompt]],
        num_versions: int = 1,
    ) -> None:
        """``spawn(index, number)`` starts worker ``index``; ``number`` counts the replacements, 0 at first."""
        self._config = config
        self._spawn_worker = spawn
        self._prompts = prompts
        self._num_versions = num_versions
        self._published: dict[int, PublishedWeights | None] = {}
        self._num_restarts = 0
        self._max_queue_depth = 0
        self._dispatcher = Dispatcher(
            num_workers=config.num_workers,
            max_chunk_attempts=config.max_chunk_attempts,
            num_places=config.vllm.max_num_seqs if config.batches_continuously else None,
        )
        self._requests: list[_Waiting] = []
        self._settling: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._watchers: tuple[Callable[[], None], ...] = ()
        self._slots = [_Slot(spawn(index, 0), worker_name(index, 0)) for index in range(config.num_workers)]

    async def start(self) -> None:
        """Wait until every engine is up. One that cannot start is an error: it would fail again."""
        await asyncio.gather(*(self._come_up(index) for index in range(len(self._slots))))

    async def load_weights(self, published: PublishedWeights) -> None:
        """Serve this version from now on, beside those that are still asked for. Returns when every worker that has
        nothing left of older ones serves it."""
        await self._publish(published.policy_version, published)

    async def serve_model_directory(self) -> None:
        """Serve the weights that the engines came up with, as version 0: where no learner publishes any."""
        await self._publish(0, None)

    async def _publish(self, version: int, published: PublishedWeights | None) -> None:
        self._check()
        self._published[version] = published
        oldest = min({*sorted(self._published)[-self._num_versions :], *self._dispatcher.wanted_versions})
        self._published = {key: value for key, value in self._published.items() if key >= oldest}
        self._dispatcher.publish(version)
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append(settled)
        self._advance()
        await settled

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they finish. Every requested prompt comes exactly once, also where workers die on the way."""
        self._check()
        chunks = cut_chunks(request, self._prompts[request.suite], self._config.prompts_per_dispatch)
        tickets = self._dispatcher.submit(chunks, self._max_workers(request))
        self._max_queue_depth = self._dispatcher.num_pending
        waiting = _Waiting(set(tickets))
        self._requests.append(waiting)
        self._advance()
        try:
            while waiting.tickets or not waiting.results.empty():
                result = await waiting.results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            self._requests.remove(waiting)
            self._dispatcher.drop(waiting.tickets)

    def _max_workers(self, request: GenerateRequest) -> int | None:
        """A request leaves workers to those that follow it: it takes as many as hold it at once, and its share at
        least. Else every worker would have a few long responses of it to the end, and nobody could begin the next."""
        if not self._config.batches_continuously:
            return None
        share = -(-self._config.num_workers // (1 + request.num_followers))
        return max(share, -(-int(request.num_rollouts.sum()) // self._config.vllm.max_num_seqs))

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
                name=slot.name,
                state=self._dispatcher.state(index).value,
                num_restarts=slot.num_restarts,
                num_in_flight=self._dispatcher.num_in_flight(index),
                tokens_per_s=slot.tokens_per_s(),
            )
            for index, slot in enumerate(self._slots)
        ]

    def metrics(self) -> Mapping[str, float]:
        return {
            "rollout/queue_depth": float(self._max_queue_depth),
            "rollout/num_healthy_workers": float(self._dispatcher.num_served),
            "rollout/num_restarts": float(self._num_restarts),
        }

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for slot in self._slots:
            slot.worker.end()

    def _advance(self) -> None:
        """Start what can be started now."""
        for index, version in self._dispatcher.begin_loads():
            self._go(self._load(index, version))
        for assignment in self._dispatcher.assign():
            self._slots[assignment.worker].num_sent += 1
            self._go(self._run(assignment, self._slots[assignment.worker]))
        for index, slot in enumerate(self._slots):
            if not slot.is_asked_for_room and self._dispatcher.needs_room(index):
                slot.is_asked_for_room = True
                self._go(self._ask_for_room(index, slot))
        if self._dispatcher.is_settled:
            settling, self._settling = self._settling, []
            for settled in settling:
                if not settled.done():
                    settled.set_result(None)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside everything else; then look what can be started. What it raises, all who wait are told."""

        async def whole() -> None:
            try:
                await work
                self._advance()
            except Exception as error:
                self._fail(error)

        task = asyncio.ensure_future(whole())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: Exception) -> None:
        """The pool is of no use any more: all who wait are told, and all who come."""
        self._failure = self._failure or error
        for waiting in self._requests:
            waiting.results.put_nowait(error)
        settling, self._settling = self._settling, []
        for settled in settling:
            if not settled.done():
                settled.set_exception(error)

    async def _load(self, index: int, version: int) -> None:
        slot, published = self._slots[index], self._published[version]
        try:
            if published is not None:
                await slot.worker.load_weights(published)
        except WorkerLost as error:
            self._replace(index, slot, str(error))
            return
        if self._slots[index] is slot:
            self._dispatcher.loaded(index, version)
            if slot.num_lost:
                slot.num_lost = 0
                self._tell_watchers()

    async def _run(self, assignment: Assignment, slot: _Slot) -> None:
        index, ticket = assignment.worker, assignment.ticket
        try:
            chunk = await slot.worker.run(assignment.chunk)
        except (DeadlineError, WorkerLost) as error:
            # Several chunks of one dead worker fail together: only the first one replaces it.
            if self._dispatcher.is_in_flight(index, ticket):
                self._replace(index, slot, str(error))
            return
        slot.timed.append((int(chunk.header.num_response_tokens.sum()), chunk.header.wall_s))
        if self._dispatcher.finished(index, ticket):
            for waiting in self._requests:
                if ticket in waiting.tickets:
                    waiting.tickets.remove(ticket)
                    waiting.results.put_nowait(chunk)

    async def _ask_for_room(self, index: int, slot: _Slot) -> None:
        try:
            room = await slot.worker.room(slot.num_sent)
        except WorkerLost as error:
            self._replace(index, slot, str(error))
            return
        slot.is_asked_for_room = False
        if self._slots[index] is slot:
            self._dispatcher.set_room(index, room)

    def _replace(self, index: int, slot: _Slot, reason: str) -> None:
        """Give a worker up and start another in its place, which comes up and loads weights on its own."""
        if self._slots[index] is not slot:
            return
        log.warning("rollout worker %d is replaced: %s", index, reason)
        self._num_restarts += 1
        slot.worker.end()
        self._dispatcher.worker_died(index)
        if slot.num_lost >= self._config.max_chunk_attempts:
            raise RolloutError(
                f"rollout worker {index} was lost {slot.num_lost + 1} times before it served any weights, at last: "
                f"{reason}; see the workers' logs, then raise rollout.max_chunk_attempts or lower rollout.num_workers"
            )
        self._slots[index] = _Slot(
            self._spawn_worker(index, self._num_restarts),
            worker_name(index, self._num_restarts),
            num_restarts=slot.num_restarts + 1,
            num_lost=slot.num_lost + 1,
        )
        self._tell_watchers()
        self._go(self._come_up(index))

    async def _come_up(self, index: int) -> None:
        slot = self._slots[index]
        await slot.worker.ready()
        self._dispatcher.worker_restarted(index)
