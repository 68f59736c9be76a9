"""What a rollout worker does whose engine batches continuously: groups enter and leave one by one.

One thread has the engine and nothing else has: it takes in groups and new weights between two passes, steps while
anything is unfinished, and hands each finished group to the judging threads, so that no verdict is waited for by the
engine and no group waits for another one's verdicts. The actor around it adds only transport.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any, TypeVar

from gps_ray.base.types import PublishedWeights
from gps_ray.config import RolloutConfig
from gps_ray.rollout.chunk import ChunkJudge, ChunkRequest, ChunkResult, EngineAtVersion
from gps_ray.rollout.engine import ContinuousEngine, GeneratedGroup
from gps_ray.tasks.interface import Task
from gps_ray.weights.interface import WeightPayload

__all__ = ["GroupRunner", "room_for"]

T = TypeVar("T")

# Of the engine's places: responses that may wait inside, so that a place that becomes free is taken in the same pass.
_AHEAD_SHARE = 8
_MAX_JUDGING_THREADS = 16


def room_for(num_places: int, num_unfinished: int, largest_group: int) -> int:
    """Responses that a worker may be given: so many that an eighth of its places, and a group at least, wait inside."""
    return num_places + max(largest_group, num_places // _AHEAD_SHARE) - num_unfinished


class GroupRunner:
    """Runs chunks of one group each. All methods may be called from any thread, and return futures at once.

    ``build`` makes the engine, on the thread that will have it; the constructor waits for it and raises what it raises.
    """

    def __init__(
        self,
        build: Callable[[], ContinuousEngine],
        task: Task,
        rollout: RolloutConfig,
        run_seed: int,
        suite_tasks: Mapping[str, Task] = MappingProxyType({}),
    ) -> None:
        self._judge = ChunkJudge(task, rollout, suite_tasks)
        # A group's responses are judged side by side; another thread's group takes what processes are left.
        num_threads = min(rollout.num_verifiers, _MAX_JUDGING_THREADS)
        self._judging = ThreadPoolExecutor(num_threads, thread_name_prefix="judging")
        self._commands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._groups: dict[int, tuple[ChunkRequest, Future[ChunkResult]]] = {}
        self._num_received = self._largest = 0
        self._room_wanted: list[tuple[int, Future[int]]] = []
        self._began: dict[tuple[str, str, int, int], float | None] = {}
        self._meter = _Meter()
        self._failure: Exception | None = None
        ready: Future[None] = _future()
        self._thread = threading.Thread(
            target=self._serve, args=(build, rollout, run_seed, ready), name="engine", daemon=True
        )
        self._thread.start()
        ready.result()

    def run(self, chunk: ChunkRequest) -> Future[ChunkResult]:
        """(header, OUTCOMES, ROLLOUTS) of a chunk of one prompt, once its responses have their verdicts.

        Fails with RolloutError where the chunk asks for another policy version than the engine serves, or where the
        engine fails.
        """
        result: Future[ChunkResult] = _future()
        self._began[chunk.key] = None
        self._commands.put(lambda: self._submit(chunk, result))
        return result

    def load_weights(self, published: PublishedWeights, payload: WeightPayload) -> Future[None]:
        """As ``EngineAtVersion.load_weights``, between two passes. To be asked for where no group is under way."""
        return self.on_engine(lambda _: self._at_version.load_weights(published, payload))

    def room(self, num_sent: int) -> Future[int]:
        """How many responses it may be sent, as soon as that is one or more: those without which a place would soon be
        empty. ``num_sent`` chunks were sent to it so far; it answers when it has taken in all of them."""
        room: Future[int] = _future()
        self._commands.put(lambda: self._room_wanted.append((num_sent, room)))
        return room

    def seconds_running(self, key: tuple[str, str, int, int]) -> float:
        """Seconds since the engine began the chunk of this key (``ChunkRequest.key``), 0 while it waits for a place."""
        began = self._began.get(key)
        return 0.0 if began is None else time.monotonic() - began

    def close(self) -> None:
        """Stop the engine's thread after the pass at hand, and end the verifiers' processes."""
        self._commands.put(None)
        self._thread.join()
        self._judging.shutdown(wait=True)
        self._judge.close()

    def on_engine(self, call: Callable[[ContinuousEngine], T]) -> Future[T]:
        """What ``call`` makes of the engine, between two passes, on the engine's thread."""
        done: Future[T] = _future()
        self._commands.put(lambda: _settle(done, lambda: call(self._engine)))
        return done

    def _serve(
        self, build: Callable[[], ContinuousEngine], rollout: RolloutConfig, run_seed: int, ready: Future[None]
    ) -> None:
        try:
            self._engine = build()
            self._at_version = EngineAtVersion(self._engine, rollout, run_seed)
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        while self._take_commands():
            self._tell_room()
            if self._has_work():
                self._step()
                self._tell_room()

    def _has_work(self) -> bool:
        return self._failure is None and self._engine.num_unfinished > 0

    def _take_commands(self) -> bool:
        """Do what was asked for meanwhile; wait for it where there is nothing else to do. False: stop."""
        is_idle = not self._has_work()
        while True:
            try:
                command = self._commands.get(block=is_idle)
            except Empty:
                return True
            if command is None:
                return False
            if is_idle and len(self._began) <= 1:  # nothing is being judged either
                self._meter.start()
            command()
            is_idle = False

    def _submit(self, chunk: ChunkRequest, result: Future[ChunkResult]) -> None:
        self._num_received += 1
        self._largest = max(self._largest, int(chunk.num_rollouts.sum()))
        try:
            if self._failure is not None:
                raise self._failure
            number = self._engine.submit(self._at_version.request_of(chunk))
        except Exception as error:
            self._began.pop(chunk.key, None)
            result.set_exception(error)
            return
        self._groups[number] = chunk, result

    def _step(self) -> None:
        self._note_begun()
        try:
            finished = self._engine.step()
        except Exception as error:
            # The engine is of no use any more: all that it owed has the reason.
            self._failure = error
            groups, self._groups = self._groups, {}
            for chunk, result in groups.values():
                self._began.pop(chunk.key, None)
                result.set_exception(error)
            return
        for number, group in finished:
            self._judging.submit(self._finish, *self._groups.pop(number), group)

    def _note_begun(self) -> None:
        waiting = [number for number, (chunk, _) in self._groups.items() if self._began.get(chunk.key) is None]
        if waiting:
            begun, now = self._engine.begun(), time.monotonic()
            for number in begun.intersection(waiting):
                self._began[self._groups[number][0].key] = now

    def _tell_room(self) -> None:
        room = room_for(self._engine.num_places, self._engine.num_unfinished, self._largest)
        if room < 1:
            return
        asked, self._room_wanted = self._room_wanted, []
        for num_sent, answer in asked:
            if num_sent <= self._num_received:
                answer.set_result(room)
            else:
                self._room_wanted.append((num_sent, answer))

    def _finish(self, chunk: ChunkRequest, result: Future[ChunkResult], group: GeneratedGroup) -> None:
        _settle(result, lambda: self._judge.finish(chunk, [group], self._meter.take))
        self._began.pop(chunk.key, None)


class _Meter:
    """CPU and wall seconds of this process, dealt out to the groups as they leave: each has what was spent since the
    one before left, so that their sum is what the process spent. Nothing counts while there is nothing to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mark = time.process_time(), time.perf_counter()

    def start(self) -> None:
        with self._lock:
            self._mark = time.process_time(), time.perf_counter()

    def take(self) -> tuple[float, float]:
        now = time.process_time(), time.perf_counter()
        with self._lock:
            cpu, wall = self._mark
            self._mark = now
        return max(now[0] - cpu, 0.0), max(now[1] - wall, 0.0)


def _future() -> Future[Any]:
    """One that nobody can cancel: what it stands for goes on all the same."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
