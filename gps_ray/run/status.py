"""What a run is doing right now, for whoever looks at its folder: ``status.json``.

The driver writes it anew, as a whole, at every phase, at every step and whenever a rollout worker comes or goes.
Nothing of the run reads it, and a place that cannot be written ends no run. It says nothing of a run whose driver is
gone (``gps_ray.run.lease.look_at_driver`` does).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["RunStatus", "StatusFile", "WorkerStatus", "read_status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One rollout worker: ``state`` is the pool's word for it (starting, stale, healthy, dead), ``num_in_flight`` the
    chunks that it has and has not finished, ``tokens_per_s`` of its newest chunks (response tokens per second of its
    own; None before the first)."""

    name: str
    state: str
    num_restarts: int
    num_in_flight: int
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Times are seconds since the epoch. ``phase`` is the last one that began: phases of a run that runs ahead
    overlap."""

    written_at: float
    num_steps_done: int
    phase: str
    phase_since: float
    workers: tuple[WorkerStatus, ...]


class StatusFile:
    """A progress sink of the loop. ``workers`` says how the rollout workers are, ``fence`` raises where this driver may
    no longer write to the folder."""

    def __init__(
        self,
        path: Path,
        workers: Callable[[], Sequence[WorkerStatus]],
        num_steps_done: int = 0,
        fence: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._workers, self._fence, self._clock = path, workers, fence, clock
        self._num_steps_done = num_steps_done
        self._phase, self._phase_since = "starting", clock()
        self._has_failed = False

    def phase(self, name: str) -> None:
        self._phase, self._phase_since = name, self._clock()
        self.write()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._num_steps_done = step
        self.write()

    def write(self) -> None:
        """Also what is called when a worker comes or goes."""
        self._fence()
        status = RunStatus(
            written_at=self._clock(),
            num_steps_done=self._num_steps_done,
            phase=self._phase,
            phase_since=self._phase_since,
            workers=tuple(self._workers()),
        )
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(asdict(status), indent=1))
            partial.replace(self._path)
        except OSError as error:
            if not self._has_failed:
                print(f"{self._path}: cannot be written: {error.strerror}; jobs.watch shows no worker states")
            self._has_failed = True


def read_status(path: Path) -> RunStatus | None:
    """None where a run wrote none (an earlier version), or it cannot be read."""
    try:
        raw = json.loads(path.read_text())
        return RunStatus(
            written_at=float(raw["written_at"]),
            num_steps_done=int(raw["num_steps_done"]),
            phase=str(raw["phase"]),
            phase_since=float(raw["phase_since"]),
            workers=tuple(WorkerStatus(**worker) for worker in raw["workers"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
