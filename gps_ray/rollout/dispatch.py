"""Which worker runs which chunk, and which weights it loads: the pool's state machine, without Ray, without a clock.

A worker is STARTING until it is up, STALE while it serves no version that is known of or is loading one, HEALTHY while
it may be given work of the version that it serves, DEAD until it is replaced::

    STARTING --worker_restarted--> STALE --loaded(version)--> HEALTHY --begin_loads--> STALE
    any --worker_died--> DEAD --worker_restarted--> STALE

Versions do not wait for each other: a worker that has nothing left of one loads the next that is asked for, or the
newest, while others finish. A chunk is pending, in flight on one worker, or done. A dead worker's chunks become pending
again with their seeds as they are (seeds are keyed by step, prompt and rollout), so who runs a chunk, when and how
often changes no result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from gps_ray.base.errors import RolloutError
from gps_ray.rollout.chunk import ChunkRequest

__all__ = ["Assignment", "Dispatcher", "WorkerState"]


class WorkerState(Enum):
    STARTING = "starting"
    STALE = "stale"
    HEALTHY = "healthy"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A chunk that a worker is to run; ``ticket`` names it among all that were ever submitted."""

    worker: int
    ticket: int
    chunk: ChunkRequest


@dataclass(slots=True)
class _Worker:
    state: WorkerState = WorkerState.STARTING
    version: int | None = None  # that it serves, or is loading while it is STALE
    is_loading: bool = False
    # Chunks that it was given and has not finished, by ticket.
    in_flight: dict[int, ChunkRequest] = field(default_factory=dict)
    room: int = 0  # rollouts that it may be given, where the pool counts in those

    @property
    def load(self) -> float:
        """Tokens in flight, as far as they can be foreseen."""
        return sum(chunk.expected_tokens for chunk in self.in_flight.values())

    @property
    def is_idle(self) -> bool:
        """Up, with nothing to do."""
        return self.state in (WorkerState.STALE, WorkerState.HEALTHY) and not self.is_loading and not self.in_flight


@dataclass(slots=True)
class _Batch:
    """What was submitted together: ``pending`` tickets in the order in which they go out; ``workers`` had one."""

    version: int
    max_workers: int
    pending: list[int]
    num_wanted: int
    workers: set[int] = field(default_factory=set)


class Dispatcher:
    """Hands out chunks, the one with the most expected tokens first, to the worker with the fewest in flight.

    ``max_in_flight`` chunks each at most; or, with ``num_places``, so many rollouts for a worker that has none and then
    as many as it says it has room for. What was submitted first goes out first; what was submitted later may overtake
    it on workers that the first cannot use.
    """

    def __init__(
        self, *, num_workers: int, max_chunk_attempts: int, max_in_flight: int = 2, num_places: int | None = None
    ) -> None:
        self._workers = [_Worker() for _ in range(num_workers)]
        self._max_chunk_attempts = max_chunk_attempts
        self._max_in_flight = max_in_flight
        self._num_places = num_places
        self._newest: int | None = None
        self._batches: list[_Batch] = []
        self._next_ticket = 0
        # Of every chunk that is still wanted: itself, its batch, started attempts.
        self._chunks: dict[int, ChunkRequest] = {}
        self._batch_of: dict[int, _Batch] = {}
        self._num_attempts: dict[int, int] = {}
        self._num_served = 0

    @property
    def is_done(self) -> bool:
        """No submitted chunk is still wanted."""
        return not self._chunks

    @property
    def num_healthy(self) -> int:
        """Workers that serve the newest version."""
        return sum(w.state is WorkerState.HEALTHY and w.version == self._newest for w in self._workers)

    @property
    def num_served(self) -> int:
        """Workers that were up when the last chunk was done; 0 before that. Unlike ``num_healthy`` it says nothing of
        the weights that may be on their way to them since."""
        return self._num_served

    @property
    def num_pending(self) -> int:
        """Chunks that no worker has been given."""
        return sum(len(batch.pending) for batch in self._batches)

    @property
    def is_settled(self) -> bool:
        """Every worker either has work, of whatever version, or serves the newest one."""
        return all(
            worker.in_flight or (worker.state is WorkerState.HEALTHY and worker.version == self._newest)
            for worker in self._workers
        )

    @property
    def wanted_versions(self) -> set[int]:
        """Versions that chunks still ask for."""
        return {chunk.policy_version for chunk in self._chunks.values()}

    def state(self, worker: int) -> WorkerState:
        return self._workers[worker].state

    def num_in_flight(self, worker: int) -> int:
        """Chunks that the worker was given and still owes."""
        return len(self._workers[worker].in_flight)

    def version(self, worker: int) -> int | None:
        """The policy version that the worker serves or loads."""
        return self._workers[worker].version

    def is_in_flight(self, worker: int, ticket: int) -> bool:
        """Whether the worker still owes this chunk (a worker declared dead owes nothing)."""
        return ticket in self._workers[worker].in_flight

    def submit(self, chunks: Iterable[ChunkRequest], max_workers: int | None = None) -> list[int]:
        """Queue chunks of one policy version; returns their tickets. At most ``max_workers`` workers share them."""
        chunks = list(chunks)
        tickets = list(range(self._next_ticket, self._next_ticket + len(chunks)))
        self._next_ticket += len(chunks)
        if not chunks:
            return tickets
        # Longest first: what is begun last should be short. Equals keep the order of the selection.
        pending = sorted(tickets, key=lambda ticket: -chunks[ticket - tickets[0]].expected_tokens)
        batch = _Batch(chunks[0].policy_version, max_workers or len(self._workers), pending, len(pending))
        self._batches.append(batch)
        for ticket, chunk in zip(tickets, chunks, strict=True):
            self._chunks[ticket], self._batch_of[ticket], self._num_attempts[ticket] = chunk, batch, 0
        return tickets

    def drop(self, tickets: Iterable[int]) -> None:
        """Nobody wants these any more; what a worker has begun of them it finishes for nothing."""
        for ticket in tickets:
            self._forget(ticket)

    def set_room(self, worker: int, num_rollouts: int) -> None:
        """The worker says how many rollouts it may be given."""
        self._workers[worker].room = num_rollouts

    def needs_room(self, worker: int) -> bool:
        """Would the worker be given more, if it had room?"""
        entry = self._workers[worker]
        return (
            self._num_places is not None
            and entry.state is WorkerState.HEALTHY
            and not self._has_room(worker)
            and any(batch.pending and self._may_serve(worker, batch) for batch in self._batches)
        )

    def assign(self) -> list[Assignment]:
        """What to start now; it counts as in flight from here on. Who is just loading a batch's version is waited for
        where it would have the least to do: the first to be up should not be given the work of all."""
        assigned: list[Assignment] = []
        for batch in self._batches:
            while batch.pending:
                able = [
                    (worker.load, index)
                    for index, worker in enumerate(self._workers)
                    if self._may_serve(index, batch) and (self._has_room(index) or worker.is_loading)
                ]
                _, index = min(able, default=(0.0, None))
                if index is None or self._workers[index].is_loading:
                    break
                assigned.append(self._start(index, batch))
        return assigned

    def begin_loads(self) -> list[tuple[int, int]]:
        """(worker, version) pairs to load now; those workers are STALE until then. An idle worker loads what the first
        batch asks for that may have it, else the newest version, so as not to wait for it later."""
        begun: list[tuple[int, int]] = []
        for index, worker in enumerate(self._workers):
            if worker.is_idle:
                version = self._wanted_by(index)
                if version is not None and (worker.state is WorkerState.STALE or worker.version != version):
                    worker.state, worker.version, worker.is_loading = WorkerState.STALE, version, True
                    begun.append((index, version))
        return begun

    def finished(self, worker: int, ticket: int) -> bool:
        """A result came. True: it is the first of its chunk. False: a repetition, to be dropped.

        A worker that was given up may answer late, after its chunk went to another; both results are equal, and
        exactly one of them counts.
        """
        self._workers[worker].in_flight.pop(ticket, None)
        if ticket not in self._chunks:
            return False
        self._forget(ticket)
        if self.is_done:
            self._num_served = sum(w.state in (WorkerState.STALE, WorkerState.HEALTHY) for w in self._workers)
        return True

    def worker_died(self, worker: int) -> list[int]:
        """The worker is gone; what it owed is pending again, ahead of the rest. Returns those tickets.

        Raises RolloutError where one of them was tried ``max_chunk_attempts`` times: the chunk kills its workers.
        """
        owed = self._workers[worker].in_flight
        lost = {ticket: chunk for ticket, chunk in owed.items() if ticket in self._chunks}
        self._workers[worker] = _Worker(WorkerState.DEAD)
        for ticket, chunk in lost.items():
            if self._num_attempts[ticket] >= self._max_chunk_attempts:
                raise RolloutError(
                    f"chunk {chunk.chunk_id} of step {chunk.step} failed {self._max_chunk_attempts} times, each time "
                    "with its worker; see the workers' logs, then raise rollout.chunk_deadline_s or "
                    "rollout.max_chunk_attempts, or lower rollout.prompts_per_chunk"
                )
        for batch in self._batches:
            batch.workers.discard(worker)
            batch.pending = [ticket for ticket in lost if self._batch_of[ticket] is batch] + batch.pending
        return list(lost)

    def worker_restarted(self, worker: int) -> None:
        """The worker (or its replacement) is up, and serves nothing before it has loaded weights."""
        self._workers[worker].state = WorkerState.STALE

    def publish(self, policy_version: int) -> None:
        """From now on there is this version too, the newest unless there is a newer one."""
        self._newest = policy_version if self._newest is None else max(self._newest, policy_version)

    def loaded(self, worker: int, policy_version: int) -> None:
        """The worker has loaded a version: it is HEALTHY if that is the one that it was told to load."""
        entry = self._workers[worker]
        if entry.state is WorkerState.STALE and entry.is_loading and policy_version == entry.version:
            entry.state, entry.is_loading = WorkerState.HEALTHY, False

    def _may_serve(self, worker: int, batch: _Batch) -> bool:
        """Has the worker the batch's version, and may it take part?"""
        return self._workers[worker].version == batch.version and self._may_join(worker, batch)

    def _may_join(self, worker: int, batch: _Batch) -> bool:
        return worker in batch.workers or len(batch.workers) < batch.max_workers

    def _has_room(self, worker: int) -> bool:
        entry = self._workers[worker]
        if entry.state is not WorkerState.HEALTHY:
            return False
        if self._num_places is None:
            return len(entry.in_flight) < self._max_in_flight
        return entry.room > 0 or not entry.in_flight

    def _wanted_by(self, worker: int) -> int | None:
        """The version that an idle worker should serve."""
        for batch in self._batches:
            if batch.pending and self._may_join(worker, batch):
                others = sum(
                    other.version == batch.version and index not in batch.workers and index != worker
                    for index, other in enumerate(self._workers)
                )
                if worker in batch.workers or len(batch.workers) + others < batch.max_workers:
                    return batch.version
        return self._newest

    def _start(self, worker: int, batch: _Batch) -> Assignment:
        ticket = batch.pending.pop(0)
        chunk, entry = self._chunks[ticket], self._workers[worker]
        self._num_attempts[ticket] += 1
        if not entry.in_flight:
            entry.room = self._num_places or 0
        entry.in_flight[ticket] = chunk
        entry.room -= int(chunk.num_rollouts.sum())
        batch.workers.add(worker)
        return Assignment(worker, ticket, chunk)

    def _forget(self, ticket: int) -> None:
        """Its result is there, or wanted no more. A worker that is still at it owes it until it answers."""
        if self._chunks.pop(ticket, None) is None:
            return
        del self._num_attempts[ticket]
        batch = self._batch_of.pop(ticket)
        if ticket in batch.pending:
            batch.pending.remove(ticket)
        batch.num_wanted -= 1
        if not batch.num_wanted:
            self._batches.remove(batch)
