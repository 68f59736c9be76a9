"""The mailbox between whoever asks the learner for something and the train worker that does it. Pure asyncio.

The train worker is not called, it calls: it takes messages and completes them, because a training framework owns its
process. Several workers that share the model each take every message, in the same order; rank 0 completes it. Each life
of the workers is an *attempt*. A message carries (attempt, sequence): what a worker of an older attempt still sends is
refused, so that it can never answer for the one that replaced it.

One attempt goes ``open`` -> ``ready`` -> any number of ``ask`` -> ``close`` or ``fail``. Sequence 0 is the start
itself: the worker completes it once it has built its learner.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gps_ray.base.errors import DeadlineError, GpsRayError, LearnerError

__all__ = ["START", "Kind", "Mailbox", "Message"]

START = 0


class Kind(Enum):
    """What the train worker is to do."""

    UPDATE = "update"
    PUBLISH = "publish"
    SAVE = "save"
    EXPORT = "export"
    IDLE = "idle"  # nothing came in time: ask again
    CLOSE = "close"  # leave the loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    attempt: int
    sequence: int
    kind: Kind
    payload: Any = None


class Mailbox:
    """First in, first out. Used from one event loop only."""

    def __init__(self) -> None:
        self._attempt = 0
        self._is_open = False
        self._reason = "it was not started"
        self._kind: type[GpsRayError] = LearnerError
        self._sequence = START
        self._queues: list[deque[Message]] = []
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()

    @property
    def attempt(self) -> int:
        return self._attempt

    def open(self, num_workers: int = 1) -> int:
        """Begin a new attempt of so many workers and return its number. An attempt that is still open fails."""
        self.fail(self._attempt, "a new attempt began")
        self._attempt += 1
        self._is_open = True
        self._sequence = START
        self._queues = [deque() for _ in range(num_workers)]
        self._waiting = {START: asyncio.get_running_loop().create_future()}
        return self._attempt

    async def ready(self, deadline_s: float, key: str) -> Any:
        """Wait until the worker of this attempt has started; returns what it completed the start with."""
        return await self._result(START, "the train worker's start", deadline_s, key)

    async def ask(self, kind: Kind, payload: Any, deadline_s: float, key: str) -> Any:
        """Put a message in and wait for its result.

        Raises LearnerError where the attempt has ended or ends on the way, DeadlineError (naming the config ``key``)
        after ``deadline_s`` seconds. The attempt ends with a missed deadline too: the worker may be anywhere in its
        work, and its later results must not pass for the answer to another message.
        """
        self._check_open()
        self._sequence += 1
        sequence = self._sequence
        self._waiting[sequence] = asyncio.get_running_loop().create_future()
        message = Message(attempt=self._attempt, sequence=sequence, kind=kind, payload=payload)
        for queue in self._queues:
            queue.append(message)
        self._changed.set()
        return await self._result(sequence, f"the learner's {kind.value}", deadline_s, key)

    async def _result(self, sequence: int, what: str, deadline_s: float, key: str) -> Any:
        attempt = self._attempt
        try:
            return await asyncio.wait_for(self._waiting[sequence], deadline_s)
        except TimeoutError:
            message = f"{what} took longer than {deadline_s:g} s; raise {key} if it only needs time"
            self.fail(attempt, message)
            raise DeadlineError(message) from None
        finally:
            if attempt == self._attempt:
                self._waiting.pop(sequence, None)

    async def next_message(self, attempt: int, wait_s: float, rank: int = 0) -> Message:
        """For the train worker of ``rank``: its next message, IDLE after ``wait_s`` seconds without one, CLOSE where
        its attempt is over."""
        if not self._is_current(attempt):
            return Message(attempt=attempt, sequence=START, kind=Kind.CLOSE)
        queue = self._queues[rank]
        if not queue:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s)
            except TimeoutError:
                return Message(attempt=attempt, sequence=START, kind=Kind.IDLE)
        if not self._is_current(attempt):
            return Message(attempt=attempt, sequence=START, kind=Kind.CLOSE)
        if not queue:
            return Message(attempt=attempt, sequence=START, kind=Kind.IDLE)
        return queue.popleft()

    def complete(self, attempt: int, sequence: int, result: Any) -> bool:
        """For the train worker: the result of a message. False, and no effect, from an attempt that is over or for a
        message that nobody waits for."""
        future = self._waiting.get(sequence)
        if not self._is_current(attempt) or future is None or future.done():
            return False
        future.set_result(result)
        return True

    def refuse(self, attempt: int, sequence: int, error: GpsRayError) -> bool:
        """For the train worker: a message that could not be done, and has changed nothing; the attempt goes on. False
        as from ``complete``."""
        future = self._waiting.get(sequence)
        if not self._is_current(attempt) or future is None or future.done():
            return False
        future.set_exception(error)
        return True

    def fail(self, attempt: int, reason: str, kind: type[GpsRayError] = LearnerError) -> bool:
        """End the attempt: everyone who waits, or asks later, gets an error of this kind with ``reason``. The first
        reason stands; False from an attempt that is over."""
        if not self._is_current(attempt):
            return False
        self._end(reason, kind)
        return True

    def close(self) -> None:
        """End the attempt in peace: the worker's next message is CLOSE."""
        if self._is_open:
            self._end("it was closed")

    def _end(self, reason: str, kind: type[GpsRayError] = LearnerError) -> None:
        self._is_open = False
        self._reason, self._kind = reason, kind
        for queue in self._queues:
            queue.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(kind(f"the learner's attempt {self._attempt} ended: {reason}"))
        self._changed.set()

    def _is_current(self, attempt: int) -> bool:
        return self._is_open and attempt == self._attempt

    def _check_open(self) -> None:
        if not self._is_open:
            raise self._kind(f"the learner takes no messages: {self._reason}")
