"""Which worker runs which chunk: the pool's state machine, without Ray, without a clock.

A worker is STARTING until it is up, STALE until it has loaded the current policy version, HEALTHY while it may be
given work, DEAD until it is replaced::

    STARTING --worker_restarted--> STALE --loaded(current version)--> HEALTHY --publish--> STALE
    any --worker_died--> DEAD --worker_restarted--> STALE

A chunk is pending, in flight on one worker, or done. A dead worker's chunks become pending again with their seeds as
they are (seeds are keyed by step, prompt and rollout), so who runs a chunk, and how often, changes no result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from gps_ray.base.errors import RolloutError
from gps_ray.rollout.chunk import ChunkRequest

__all__ = ["Dispatcher", "WorkerState"]


class WorkerState(Enum):
    STARTING = "starting"
    STALE = "stale"
    HEALTHY = "healthy"
    DEAD = "dead"


@dataclass(slots=True)
class _Worker:
    state: WorkerState = WorkerState.STARTING
    # Chunks that this worker was given and has not finished.
    in_flight: dict[int, ChunkRequest] = field(default_factory=dict)

    @property
    def load(self) -> int:
        """Rollouts in flight: all have the same token limit, so this orders workers as tokens in flight would."""
        return sum(int(chunk.num_rollouts.sum()) for chunk in self.in_flight.values())


class Dispatcher:
    """Hands out chunks to the worker with the fewest rollouts in flight, at most ``max_in_flight`` chunks each.

    Chunks are known by ``chunk_id``, which must be unique among those submitted and not yet done.
    """

    def __init__(self, *, num_workers: int, max_chunk_attempts: int, max_in_flight: int = 2) -> None:
        self._workers = [_Worker() for _ in range(num_workers)]
        self._max_chunk_attempts = max_chunk_attempts
        self._max_in_flight = max_in_flight
        self._policy_version: int | None = None
        self._pending: list[ChunkRequest] = []
        # Started attempts of every chunk that is not done; its keys are the chunks still wanted.
        self._num_attempts: dict[int, int] = {}
        self._num_served = 0

    @property
    def is_done(self) -> bool:
        """No submitted chunk is still wanted."""
        return not self._num_attempts

    @property
    def num_healthy(self) -> int:
        return sum(worker.state is WorkerState.HEALTHY for worker in self._workers)

    @property
    def num_served(self) -> int:
        """Workers that were HEALTHY when the last submitted chunk was done; 0 before that. Unlike ``num_healthy`` it
        says nothing of the weights that may be on their way to them since."""
        return self._num_served

    @property
    def num_pending(self) -> int:
        """Chunks that no worker has been given."""
        return len(self._pending)

    def state(self, worker: int) -> WorkerState:
        return self._workers[worker].state

    def num_in_flight(self, worker: int) -> int:
        """Chunks that the worker was given and still owes."""
        return len(self._workers[worker].in_flight)

    def is_in_flight(self, worker: int, chunk_id: int) -> bool:
        """Whether the worker still owes this chunk (a worker declared dead owes nothing)."""
        return chunk_id in self._workers[worker].in_flight

    def submit(self, chunks: Iterable[ChunkRequest]) -> None:
        """Queue chunks, in this order. Raises RolloutError where a chunk id is still wanted from before."""
        for chunk in chunks:
            if chunk.chunk_id in self._num_attempts:
                raise RolloutError(f"chunk {chunk.chunk_id} was submitted twice before it was done")
            self._num_attempts[chunk.chunk_id] = 0
            self._pending.append(chunk)

    def assign(self) -> list[tuple[int, ChunkRequest]]:
        """(worker, chunk) pairs to start now; they count as in flight from here on."""
        assigned = []
        while self._pending:
            free = [
                (worker.load, index)
                for index, worker in enumerate(self._workers)
                if worker.state is WorkerState.HEALTHY and len(worker.in_flight) < self._max_in_flight
            ]
            if not free:
                break
            _, index = min(free)
            chunk = self._pending.pop(0)
            self._num_attempts[chunk.chunk_id] += 1
            self._workers[index].in_flight[chunk.chunk_id] = chunk
            assigned.append((index, chunk))
        return assigned

    def finished(self, worker: int, chunk_id: int) -> bool:
        """A result came. True: it is the first of its chunk. False: a repetition, to be dropped.

        A worker that was given up may answer late, after its chunk went to another; both results are equal, and
        exactly one of them counts.
        """
        self._workers[worker].in_flight.pop(chunk_id, None)
        if self._num_attempts.pop(chunk_id, None) is None:
            return False
        # Nobody else owes it any more.
        self._pending = [chunk for chunk in self._pending if chunk.chunk_id != chunk_id]
        for other in self._workers:
            other.in_flight.pop(chunk_id, None)
        if self.is_done:
            self._num_served = self.num_healthy
        return True

    def worker_died(self, worker: int) -> list[int]:
        """The worker is gone; what it owed is pending again, ahead of the rest. Returns those chunk ids.

        Raises RolloutError where one of them was tried ``max_chunk_attempts`` times: the chunk kills its workers.
        """
        entry = self._workers[worker]
        entry.state = WorkerState.DEAD
        lost = list(entry.in_flight.values())
        entry.in_flight = {}
        for chunk in lost:
            if self._num_attempts[chunk.chunk_id] >= self._max_chunk_attempts:
                raise RolloutError(
                    f"chunk {chunk.chunk_id} of step {chunk.step} failed {self._max_chunk_attempts} times, each time "
                    "with its worker; see the workers' logs, then raise rollout.chunk_deadline_s or "
                    "rollout.max_chunk_attempts, or lower rollout.prompts_per_chunk"
                )
        self._pending = lost + self._pending
        return [chunk.chunk_id for chunk in lost]

    def worker_restarted(self, worker: int) -> None:
        """The worker (or its replacement) is up, and serves nothing before it has loaded the current weights."""
        self._workers[worker].state = WorkerState.STALE

    def publish(self, policy_version: int) -> None:
        """From now on this is the version to serve: every worker that is up is STALE until it has loaded it."""
        self._policy_version = policy_version
        for worker in self._workers:
            if worker.state is WorkerState.HEALTHY:
                worker.state = WorkerState.STALE

    def loaded(self, worker: int, policy_version: int) -> None:
        """The worker has loaded a version; it is HEALTHY if that is still the current one."""
        entry = self._workers[worker]
        if entry.state is WorkerState.STALE and policy_version == self._policy_version:
            entry.state = WorkerState.HEALTHY
