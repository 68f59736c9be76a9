"""What one step collects on its way from the selection to the metrics line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gps_ray.base.types import Chunk, ChunkHeader, Selection

__all__ = ["StepRecord"]


@dataclass(slots=True)
class StepRecord:
    """``policy_version`` makes the rollouts, beside those of up to ``num_followers`` steps after it. ``selections`` are
    its rounds, ``chunks`` in the order of the selection, ``seconds`` wall seconds by metric name."""

    step: int
    policy_version: int
    num_followers: int = 0
    selections: list[Selection] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    admitted: tuple[str, ...] = ()
    num_steps_ahead: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def headers(self) -> list[ChunkHeader]:
        return [chunk.header for chunk in self.chunks]

    @contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Add the wall seconds of a block to ``timing_s/<phase>``."""
        start = time.perf_counter()
        yield
        name = f"timing_s/{phase}"
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
