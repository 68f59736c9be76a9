"""The run in Ray's own metrics (dashboard, Prometheus): a few gauges, set by the driver once per phase and step."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge, Histogram

__all__ = ["ClusterMetrics"]

# Ray puts "ray_" in front of these names.
GAUGES = {
    "gps_ray_step": ("step", "Optimizer steps done"),
    "gps_ray_tokens_per_second": ("rollout/tokens_per_s", "Response tokens per wall second of the rollout phase"),
    "gps_ray_useful_group_ratio": ("selection/useful_group_ratio", "Groups with a gradient, of all rolled out"),
    "gps_ray_pass_rate": ("val/pass@1", "pass@1 on the evaluation set"),
    "gps_ray_pool_probe_spearman": ("predictor/pool_probe_spearman", "Predicted against realised success, pool"),
    "gps_ray_heldout_probe_spearman": (
        "predictor/heldout_probe_spearman",
        "Predicted against realised success, held-out prompts",
    ),
    "gps_ray_pool_probe_calibration_error": ("predictor/pool_probe_ece", "Expected calibration error, pool probe"),
    "gps_ray_queue_depth": ("rollout/queue_depth", "Largest number of chunks waiting for a worker in the step"),
    "gps_ray_healthy_workers": (
        "rollout/num_healthy_workers",
        "Rollout workers that were up when the step's rollouts were done",
    ),
    "gps_ray_policy_lag": ("rollout/policy_lag", "Policy versions between sampling and update"),
}
PHASE_PREFIX = "timing_s/"


class ClusterMetrics:
    """A progress sink of the loop."""

    def __init__(self, run_name: str) -> None:
        self._tags = {"run": run_name}
        self._gauges = {
            metric: Gauge(name, description=text, tag_keys=("run",)) for name, (metric, text) in GAUGES.items()
        }
        self._phase_s = Gauge(
            "gps_ray_phase_seconds", description="Seconds of the last step by phase", tag_keys=("run", "phase")
        )
        self._step_s = Histogram(
            "gps_ray_step_seconds",
            description="Seconds per step",
            boundaries=[0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000],
            tag_keys=("run",),
        )

    def phase(self, name: str) -> None:
        """Phases show as seconds after the step; nothing to do before."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        for metric, gauge in self._gauges.items():
            if metric in metrics:
                gauge.set(float(metrics[metric]), tags=self._tags)
        for name, value in metrics.items():
            if name.startswith(PHASE_PREFIX):
                self._phase_s.set(float(value), tags={**self._tags, "phase": name.removeprefix(PHASE_PREFIX)})
        if "timing_s/step" in metrics:
            self._step_s.observe(float(metrics["timing_s/step"]), tags=self._tags)
