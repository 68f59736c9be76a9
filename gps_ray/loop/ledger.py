"""What the run has cost so far. Every rollout and token is charged, kept or dropped; what does not serve training
(evaluation, probes, the oracle's look) has counters of its own and is in no total."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from gps_ray.base.types import ChunkHeader, ObserveResult, UpdateResult
from gps_ray.loop.step_record import StepRecord
from gps_ray.run.metrics import TRAINING_PHASES, group_counts

__all__ = ["Ledger"]


class Ledger:
    """The ``cost/`` counters, part of every metrics line and of every checkpoint."""

    def __init__(self) -> None:
        self.counters: dict[str, float] = {}
        self._mark = time.perf_counter()

    def restore(self, counters: Mapping[str, float]) -> None:
        self.counters = dict(counters)

    def start_clock(self) -> None:
        """Wall seconds count from now on: what passed since the last step served no step."""
        self._mark = time.perf_counter()

    def seconds_since_start(self) -> float:
        return time.perf_counter() - self._mark

    def leave_out(self, seconds: float) -> None:
        """Wall seconds that a step waited for something that is not training."""
        self._mark += seconds

    def charge_step(self, record: StepRecord, updated: UpdateResult, observed: ObserveResult) -> None:
        """One step's rollouts, update and selector, and the wall seconds since the clock was started."""
        self._add("cost/wall_s", self.seconds_since_start())
        self.charge_rollouts("rollout", record.headers)
        for counter, count in group_counts(record.headers, record.selections).items():
            self._add(counter, count)
        self._add("cost/cpu_s_update", updated.cpu_s)
        self._add("cost/cpu_s_selector", observed.cpu_s + sum(s.cpu_s for s in record.selections))
        self.counters["cost/cpu_s"] = sum(self.counters[f"cost/cpu_s_{phase}"] for phase in TRAINING_PHASES)

    def charge_rollouts(self, phase: str, headers: Sequence[ChunkHeader]) -> None:
        """Chunks made for ``phase``: "rollout", or one of ``OTHER_PHASES``."""
        suffix = "" if phase == "rollout" else f"_{phase}"
        num_rollouts = sum(int((h.num_right + h.num_wrong + h.num_failed).sum()) for h in headers)
        self._add(f"cost/num_rollouts{suffix}", num_rollouts)
        self._add(f"cost/num_tokens{suffix}", sum(int(h.num_response_tokens.sum()) for h in headers))
        self.charge_cpu(phase, sum(h.cpu_s for h in headers))

    def charge_cpu(self, phase: str, cpu_s: float) -> None:
        self._add(f"cost/cpu_s_{phase}", cpu_s)

    def _add(self, counter: str, value: float) -> None:
        self.counters[counter] = self.counters.get(counter, 0.0) + value
