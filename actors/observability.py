"""The run in Ray's own metrics (dashboard, Prometheus): gauges that the driver sets at each phase and step.

Every series carries ``run`` (the folder's name) and ``run_id`` (unlike that of any other run), so that two runs of one
name, on one cluster or in one Prometheus, are two series, and a resumed run goes on with its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ray.util.metrics import Gauge, Histogram

from gps_ray.run.exported import GAUGES, LAST_STEP, PHASE_SECONDS, STEP_SECONDS, WORKER_GAUGES
from gps_ray.run.status import WorkerStatus

__all__ = ["ClusterMetrics"]

PHASE_PREFIX = "timing_s/"
_LABELS = ("run", "run_id")
_UP = ("healthy", "stale")


class ClusterMetrics:
    """A progress sink of the loop. ``workers`` says how the rollout workers are."""

    def __init__(self, run_name: str, run_id: str, workers: Callable[[], Sequence[WorkerStatus]]) -> None:
        self._tags, self._workers = {"run": run_name, "run_id": run_id}, workers
        self._gauges = {metric: Gauge(name, text, _LABELS) for name, (metric, text) in GAUGES.items()}
        self._of_worker = {name: Gauge(name, text, (*_LABELS, "worker")) for name, text in WORKER_GAUGES.items()}
        self._phase_s = Gauge(*PHASE_SECONDS, (*_LABELS, "phase"))
        self._last_step = Gauge(*LAST_STEP, _LABELS)
        self._step_s = Histogram(*STEP_SECONDS, [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000], _LABELS)
        self._last_step.set(time.time(), tags=self._tags)

    def phase(self, name: str) -> None:
        """Phases show as seconds after the step; how the workers are shows at once."""
        self.show_workers()

    def show_workers(self) -> None:
        """Also what is called when a worker comes or goes."""
        for index, worker in enumerate(self._workers()):
            # A worker and the one in its place are one series.
            tags = {**self._tags, "worker": str(index)}
            self._of_worker["gps_ray_worker_up"].set(float(worker.state in _UP), tags=tags)
            speed = worker.tokens_per_s or 0.0
            self._of_worker["gps_ray_worker_tokens_per_second"].set(speed, tags=tags)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._last_step.set(time.time(), tags=self._tags)
        for metric, gauge in self._gauges.items():
            if metric in metrics:
                gauge.set(float(metrics[metric]), tags=self._tags)
        for name, value in metrics.items():
            if name.startswith(PHASE_PREFIX):
                self._phase_s.set(float(value), tags={**self._tags, "phase": name.removeprefix(PHASE_PREFIX)})
        if "timing_s/step" in metrics:
            self._step_s.observe(float(metrics["timing_s/step"]), tags=self._tags)
        self.show_workers()
