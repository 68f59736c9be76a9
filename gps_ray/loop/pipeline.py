"""What passes between the two sides of the loop, rollouts and learning, and what a step collects on its way."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from gps_ray.base.types import Chunk, PublishedWeights, Selection

__all__ = ["StepRecord", "Stopwatch", "Stretch"]


@dataclass(slots=True)
class StepRecord:
    """What a step collects on its way."""

    step: int
    policy_version: int
    selections: list[Selection]
    chunks: list[Chunk] = field(default_factory=list)
    admitted: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    num_steps_ahead: int = 0


class Stretch:
    """A stretch of steps, from the one after ``begin`` to ``end``, and what passes between its two sides: selections
    and weights to the rollouts, their records to the learner, each in the order of the steps."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.steps = range(begin + 1, end + 1)
        self.selections: asyncio.Queue[Selection] = asyncio.Queue()
        self.weights: asyncio.Queue[PublishedWeights] = asyncio.Queue()
        self.rolled_out: asyncio.Queue[StepRecord] = asyncio.Queue()


class Stopwatch(AbstractContextManager["Stopwatch"]):
    """Adds the wall-clock seconds of a block to ``seconds[name]``."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.perf_counter() - self._start
