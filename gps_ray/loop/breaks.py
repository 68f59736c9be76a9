"""When a run breaks off between two steps that it would have taken together: to write a checkpoint, or to end.

Without a policy lag the place of a break changes nothing, so it may come after any step. With one it would (what runs
ahead is part of the result): there a run breaks off only where the config says that nothing is under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gps_ray.base.errors import GpsRayError
from gps_ray.config import TrainConfig

__all__ = ["Break", "Breaks", "RunStopped", "StopRequest"]

# What a shell makes of a process that a signal ended.
_EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130}


class Break(Exception):
    """Nothing is under way: the step before is done and this one has not begun. Never leaves the loop."""


class RunStopped(GpsRayError):
    """The run ended before its last step because somebody, or its time limit, asked for it. Not an error of the run:
    ``exit_code`` is 143 or 130 after a signal, 0 at the limit."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(f"{reason}: {what}")
        self.exit_code = _EXIT_CODES.get(reason, 0)


@dataclass(slots=True)
class StopRequest:
    """Somebody's wish that the run end after the step at hand; the first reason counts."""

    reason: str = ""

    def ask(self, reason: str) -> None:
        self.reason = self.reason or reason


class Breaks:
    """Says whether a break is wanted now. The clock starts when this is made, with the run."""

    def __init__(self, config: TrainConfig, stop: StopRequest, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._limit_s = config.checkpoint.every_s, config.run.time_limit_s
        self._anywhere = config.run.max_policy_lag == 0
        self._stop, self._clock = stop, clock
        self._start = self._saved = self._step_began = clock()
        self._longest_step_s = self._checkpoint_s = 0.0
        self.has_news = False  # a step was done since the last checkpoint

    @property
    def reason(self) -> str:
        """Why the run has to end, "" while it need not."""
        left = float("inf") if self._limit_s is None else self._limit_s - (self._clock() - self._start)
        if left < self._longest_step_s + self._checkpoint_s:
            self._stop.ask(f"run.time_limit_s={self._limit_s:g}")
        return self._stop.reason

    def is_wanted(self) -> bool:
        is_due = self._every_s is not None and self._clock() - self._saved >= self._every_s
        return bool(self.reason) or (is_due and self.has_news)

    def may_come(self) -> bool:
        """May the step that is about to begin wait for a break instead?"""
        return self._anywhere and self.is_wanted()

    def step_done(self) -> None:
        now = self._clock()
        self._longest_step_s = max(self._longest_step_s, now - self._step_began)
        self._step_began, self.has_news = now, True

    def saved(self, began: float) -> None:
        """A checkpoint that was begun at ``began`` (this clock) is whole."""
        self._saved = self._step_began = self._clock()
        self.has_news = False
        self._checkpoint_s = max(self._checkpoint_s, self._saved - began)

    def skipped(self) -> None:
        """A checkpoint could not be written: the clock begins anew, what was done since the last is still news."""
        self._saved = self._step_began = self._clock()

    def now(self) -> float:
        return self._clock()
