"""``jobs.bench step``: a whole step in step with the learner against one that runs ahead.

Simulated engine and simulated learner with latencies of their own, everything else as in a run: Ray actors, selector,
object store. In step a step lasts rollout + update; running ahead it should last as long as the longer of the two. A
run has no stop: nothing is evaluated or checkpointed in between.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actors.cluster import cluster_for
from actors.training import prepare, run_training
from gps_ray.config import TrainConfig, load_config
from gps_ray.run.metrics import read_metrics

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lags", type=int, nargs="+", default=[0, 1], help="values of run.max_policy_lag")
    parser.add_argument("--rollout-s", type=float, default=2.0, help="seconds that the rollouts of a step take")
    parser.add_argument("--update-s", type=float, default=1.0, help="seconds that an update takes")
    parser.add_argument("--num-steps", type=int, default=12, help="steps per run")
    parser.add_argument("--repeats", type=int, default=2, help="runs per lag, by turns")
    parser.add_argument("--selector", default="gps_fused")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per lag: seconds per step (all runs, the median), and its share that is neither rollout nor update."""
    seconds: dict[int, list[Mapping[str, float]]] = {lag: [] for lag in args.lags}
    with tempfile.TemporaryDirectory() as scratch, cluster_for(_config(args, 0, Path(scratch) / "none")):
        for repeat in range(args.repeats):
            for lag in args.lags:
                config, data = prepare(_config(args, lag, Path(scratch) / f"lag{lag}_{repeat}"))
                run_training(config, data)
                rows = read_metrics(config.run.directory / "metrics.jsonl")
                # The first steps fill the pipe, the last one is evaluated.
                seconds[lag] += [row for row in rows if 2 + lag < row["step"] < args.num_steps]
    return {
        "benchmark": "step",
        "rollout_s": args.rollout_s,
        "update_s": args.update_s,
        "selector": args.selector,
        "rows": [_row(lag, rows, max(args.rollout_s, args.update_s)) for lag, rows in seconds.items()],
    }


def _row(lag: int, rows: list[Mapping[str, float]], longer_s: float) -> dict[str, Any]:
    steps = np.array([row["timing_s/step"] for row in rows])
    both = np.array([row["timing_s/rollout"] + row["timing_s/update"] for row in rows])
    busy = both if lag == 0 else np.full(len(rows), longer_s)
    return {
        "max_policy_lag": lag,
        "step_s": round(float(np.median(steps)), 3),
        "rollout_s": round(float(np.median([row["timing_s/rollout"] for row in rows])), 3),
        "update_s": round(float(np.median([row["timing_s/update"] for row in rows])), 3),
        "policy_lag": float(np.mean([row["rollout/policy_lag"] for row in rows])),
        "overhead_share": round(float(np.median(1.0 - busy / steps)), 3),
        "step_s_each": [round(float(value), 3) for value in steps],
    }


def _config(args: argparse.Namespace, lag: int, directory: Path) -> TrainConfig:
    return load_config(
        TrainConfig,
        None,
        (
            f"run.directory={directory}",
            f"run.num_steps={args.num_steps}",
            f"run.max_policy_lag={lag}",
            "rollout.engine=simulated",
            # One chunk per worker: the rollouts of a step last as long as one.
            "rollout.num_workers=2",
            "rollout.prompts_per_chunk=16",
            f"rollout.simulated.latency_s={args.rollout_s}",
            f"rollout.simulated.update_latency_s={args.update_s}",
            f"selection.selector={args.selector}",
            f"evaluation.every_steps={args.num_steps}",
            "evaluation.rollouts_per_prompt=1",
            "evaluation.num_probe_prompts=0",
            "data.countdown.num_evaluation_prompts=8",
            "data.countdown.num_heldout_probe_prompts=1",
            f"checkpoint.every_steps={args.num_steps}",
        ),
    )
