"""What a run says of itself while it goes on: phases, a line of metrics per step, responses to read."""

from __future__ import annotations

from collections.abc import Mapping

from gps_ray.base.types import ObserveResult, UpdateResult
from gps_ray.loop.ledger import Ledger
from gps_ray.loop.parts import LoopParts
from gps_ray.loop.step_record import StepRecord
from gps_ray.run.metrics import NUM_SKIPPED, NUM_TOKENS, rollouts_saved, step_metrics

__all__ = ["Reporter"]


class Reporter:
    """Tells the run folder and the sinks. ``last`` is the newest line of metrics, {} before the first."""

    def __init__(self, parts: LoopParts, ledger: Ledger) -> None:
        self._parts, self._ledger = parts, ledger
        self.last: Mapping[str, float] = {}

    def phase(self, name: str) -> None:
        for sink in self._parts.sinks:
            sink.phase(name)

    def of_step(self, record: StepRecord, updated: UpdateResult, observed: ObserveResult) -> dict[str, float]:
        metrics = step_metrics(record.headers, record.selections, record.admitted)
        return {
            "step": record.step,
            **metrics,
            "rollout/policy_lag": float(record.step - 1 - record.policy_version),
            "rollout/num_steps_ahead": float(record.num_steps_ahead),
            "rollout/tokens_per_s": metrics[NUM_TOKENS] / record.seconds["timing_s/rollout"],
            **updated.metrics,
            **observed.metrics,
            **rollouts_saved(self._ledger.counters),
            **self._parts.pool.metrics(),
        }

    def write_responses(self, record: StepRecord) -> None:
        """Those that were kept to be read, and what verifiers noted of any."""
        folder, headers = self._parts.folder, record.headers
        folder.write_samples(record.step, [sample for header in headers for sample in header.samples])
        folder.write_verifier_notes(record.step, [note for header in headers for note in header.verifier_notes])

    def emit(self, metrics: Mapping[str, float], num_skipped: int = 0) -> None:
        """``metrics`` of one step become a line, with all costs so far; ``num_skipped`` checkpoints are not there."""
        step = int(metrics["step"])
        mirror = {} if self._parts.mirror is None else self._parts.mirror.metrics(step)
        skipped = {NUM_SKIPPED: float(num_skipped)} if num_skipped else {}
        row = {**metrics, **mirror, **skipped, **self._ledger.counters}
        self._parts.folder.metrics.append(row)
        self.last = row
        for sink in self._parts.sinks:
            sink.step(step, row)
