"""An engine that batches continuously, as a clock: what it generates is known beforehand, only the time is made."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.base.types import FloatArray, IntArray

__all__ = ["BatchingClock", "DecodeCost", "saturated_s"]

# Passes that are slept through at a time at most: what arrives meanwhile is taken in after them.
_PASSES_PER_SLEEP = 128


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Seconds of one decoding pass: max(floor_s, base_s + context x per_context_token_s + extra_s), with the tokens of
    all running responses and their prompts as context."""

    floor_s: float
    base_s: float
    per_context_token_s: float
    extra_s: float

    def passes_s(self, context: float, num_running: int, num_passes: int) -> float:
        """``num_passes`` in a row, each of which adds a token to every running response."""
        contexts = context + num_running * np.arange(num_passes)
        costs = self.base_s + self.extra_s + contexts * self.per_context_token_s
        return float(np.maximum(costs, self.floor_s).sum())


class BatchingClock:
    """``num_places`` responses are generated side by side, one token a pass; the others wait in the order of their
    submission. Must live on a running event loop; its seconds are that loop's."""

    def __init__(self, num_places: int, cost: DecodeCost, prompt_tokens: int) -> None:
        self.num_places = num_places
        self._cost = cost
        self._prompt_tokens = prompt_tokens
        self._waiting: deque[tuple[int, _Group]] = deque()  # length, group
        self._left = np.zeros(0, dtype=np.int64)  # tokens to come of the running responses
        self._done = np.zeros(0, dtype=np.int64)  # tokens that they have
        self._groups: list[_Group] = []  # whose they are
        self._something = asyncio.Event()
        self._changed = asyncio.Condition()
        self._task = asyncio.ensure_future(self._run())

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._groups)

    async def generate(self, lengths: Sequence[int] | IntArray) -> None:
        """Returns when responses of these lengths, in tokens, have ended."""
        group = _Group(len(lengths), asyncio.get_running_loop().create_future())
        self._waiting.extend((int(length), group) for length in lengths)
        self._something.set()
        await group.ended

    async def until_unfinished_below(self, number: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.num_unfinished < number)

    def close(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self._fill()
            if not self._groups:
                self._something.clear()
                await self._something.wait()
                continue
            num_passes = min(int(self._left.min()), _PASSES_PER_SLEEP)
            context = float(self._done.sum()) + len(self._groups) * self._prompt_tokens
            await asyncio.sleep(self._cost.passes_s(context, len(self._groups), num_passes))
            self._left -= num_passes
            self._done += num_passes
            await self._drop_ended()

    def _fill(self) -> None:
        num_new = min(self.num_places - len(self._groups), len(self._waiting))
        if num_new:
            new = [self._waiting.popleft() for _ in range(num_new)]
            self._left = np.append(self._left, [length for length, _ in new])
            self._done = np.append(self._done, np.zeros(num_new, dtype=np.int64))
            self._groups += [group for _, group in new]

    async def _drop_ended(self) -> None:
        ended = np.flatnonzero(self._left == 0)
        if not len(ended):
            return
        for row in ended:
            self._groups[row].one_ended()
        stays = self._left > 0
        self._groups = [group for group, stay in zip(self._groups, stays, strict=True) if stay]
        self._left, self._done = self._left[stays], self._done[stays]
        async with self._changed:
            self._changed.notify_all()


@dataclass(slots=True, eq=False)
class _Group:
    num_left: int
    ended: asyncio.Future[None]

    def one_ended(self) -> None:
        self.num_left -= 1
        if not self.num_left and not self.ended.done():
            self.ended.set_result(None)


def saturated_s(lengths: FloatArray | IntArray, num_places: int, cost: DecodeCost, prompt_tokens: int) -> float:
    """Seconds for responses of these lengths on one engine all of whose places are always taken.

    A pass makes ``num_places`` tokens; over all tokens the context of a response is on average
    prompt + sum(length^2) / (2 sum(length)).
    """
    lengths = np.asarray(lengths, dtype=np.float64)
    mean_context = prompt_tokens + (lengths**2).sum() / (2 * lengths.sum())
    num_passes = lengths.sum() / num_places
    return float(num_passes * cost.passes_s(num_places * mean_context, 0, 1))
