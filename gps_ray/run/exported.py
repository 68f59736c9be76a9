"""What a run shows on Ray's metrics port, as data: names, where each comes from, what it means.

Ray puts ``ray_`` in front of the names. ``actors.observability`` exports them, ``deploy/grafana`` draws them,
``deploy/prometheus`` alerts by them; tests hold these together.
"""

from __future__ import annotations

__all__ = ["GAUGES", "LAST_STEP", "PHASE_SECONDS", "STEP_SECONDS", "WORKER_GAUGES", "exported_table"]

# Name -> (metric of metrics.jsonl, meaning).
GAUGES = {
    "gps_ray_step": ("step", "Optimizer steps done"),
    "gps_ray_pass_rate": ("val/pass@1", "pass@1 on the evaluation set"),
    "gps_ray_reward_mean": ("reward/mean", "Mean reward of the step's rollouts with a verdict"),
    "gps_ray_train_pass_rate": ("reward/pass_rate", "Right of right and wrong, over the step's rollouts"),
    "gps_ray_response_length_tokens": ("response_length/mean", "Mean response length of the step's rollouts, tokens"),
    "gps_ray_truncated_ratio": ("rollout/truncated_ratio", "Rollouts of the step cut off at the limit of tokens"),
    "gps_ray_useful_group_ratio": ("selection/useful_group_ratio", "Groups with a gradient, of all rolled out"),
    "gps_ray_rollouts": ("cost/num_rollouts", "Rollouts made for training so far, kept or dropped"),
    "gps_ray_rollouts_saved_estimate": (
        "selection/rollouts_saved_estimate",
        "An estimate by the random slots: rollouts that uniform selection would have made on top for as many useful "
        "groups so far",
    ),
    "gps_ray_loss": ("train/loss", "Loss of the step's update"),
    "gps_ray_gradient_norm": ("train/grad_norm", "Norm of the gradient before it is clipped"),
    "gps_ray_entropy": ("train/entropy", "Entropy of the policy's next token, nats"),
    "gps_ray_approx_kl": ("train/approx_kl", "KL between the policy that made the rollouts and the updated one, nats"),
    "gps_ray_reference_kl": ("train/reference_kl", "KL from the reference model, nats, where there is one"),
    "gps_ray_pool_probe_spearman": ("predictor/pool_probe_spearman", "Predicted against realised success, pool"),
    "gps_ray_heldout_probe_spearman": (
        "predictor/heldout_probe_spearman",
        "Predicted against realised success, held-out prompts",
    ),
    "gps_ray_pool_probe_calibration_error": ("predictor/pool_probe_ece", "Expected calibration error, pool probe"),
    "gps_ray_tokens_per_second": ("rollout/tokens_per_s", "Response tokens per wall second of the rollout phase"),
    "gps_ray_queue_depth": ("rollout/queue_depth", "Largest number of chunks waiting for a worker in the step"),
    "gps_ray_healthy_workers": (
        "rollout/num_healthy_workers",
        "Rollout workers that were up when the step's rollouts were done",
    ),
    "gps_ray_worker_restarts": ("rollout/num_restarts", "Rollout workers restarted so far by this driver"),
    "gps_ray_policy_lag": ("rollout/policy_lag", "Policy versions between sampling and update"),
}
# With the label worker: the worker's place in the pool, which the one that replaces it takes.
WORKER_GAUGES = {
    "gps_ray_worker_up": "1 while the rollout worker answers, 0 while it is dead or starts",
    "gps_ray_worker_tokens_per_second": "Response tokens per second of its own, over the worker's newest chunks",
}
# With the label phase.
PHASE_SECONDS = ("gps_ray_phase_seconds", "Seconds of the last step by phase")
LAST_STEP = (
    "gps_ray_last_step_timestamp_seconds",
    "When the last step ended, or the driver began; seconds since 1970",
)
# A histogram.
STEP_SECONDS = ("gps_ray_step_seconds", "Seconds per step")


def exported_table() -> str:
    """All of them as a Markdown table."""
    rows = [(name, text, f"`{metric}`") for name, (metric, text) in GAUGES.items()]
    rows += [(f"{name}{{worker}}", text, "the pool") for name, text in WORKER_GAUGES.items()]
    rows.append((f"{PHASE_SECONDS[0]}{{phase}}", PHASE_SECONDS[1], "`timing_s/*`"))
    rows.append((*LAST_STEP, "the clock"))
    rows.append((f"{STEP_SECONDS[0]} (histogram)", STEP_SECONDS[1], "`timing_s/step`"))
    lines = ["| exported | meaning | from |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `ray_{name}` | {text} | {source} |" for name, text, source in rows)]) + "\n"
