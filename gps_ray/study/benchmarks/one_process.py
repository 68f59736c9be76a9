"""``jobs.bench one_process``: whole runs by several selectors, one after the other in this process, without Ray.

For a machine with a GPU and nothing but torch and transformers: the torch engine and the learner share it. What is
measured is what ``jobs.compare`` measures, on run folders like its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gps_ray.base.errors import ConfigError
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.in_process import run_in_process
from gps_ray.loop.plan import check_data, prompt_limit
from gps_ray.run.progress import Progress
from gps_ray.study.arms import by_selector, run_config
from gps_ray.study.report.comparison_report import read_comparison
from gps_ray.study.report.summary import as_json
from gps_ray.study.report.tables import print_comparison
from gps_ray.tasks.dataset import load_data

__all__ = ["add_arguments", "device_name", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="YAML file of a run with model.path")
    parser.add_argument(
        "--selectors", default="uniform,gps_fused", help="with commas between; the first is the baseline"
    )
    parser.add_argument("--seeds", default="0", help="with commas between")
    parser.add_argument(
        "--time-limit-s",
        type=float,
        default=float("inf"),
        help="but for the first, no seed is begun that would not end by then",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per arm and seed; the comparison over the seeds that were run stands beside them and is printed."""
    config = load_config(TrainConfig, args.config, args.overrides)
    if config.model.path is None:
        raise ConfigError("model.path: expected a model's folder, got null; set model.path")
    names = [name.strip() for name in args.selectors.split(",")]
    arms = by_selector(config, names)
    began, longest = time.monotonic(), 0.0
    rows: list[dict[str, Any]] = []
    folders: dict[str, dict[int, Path]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in (int(text) for text in args.seeds.split(",")):
            seed_began = time.monotonic()
            if rows and seed_began - began + longest > args.time_limit_s:
                print(f"seed {seed} and those after it are left out: --time-limit-s={args.time_limit_s:g}", flush=True)
                break
            for name in names:
                folder, seconds = _one(run_config(arms[name], name, seed, Path(scratch)))
                folders[name][seed] = folder
                rows.append({"selector": name, "seed": seed, "seconds": round(seconds, 1)})
            longest = max(longest, time.monotonic() - seed_began)
        comparison = read_comparison(folders, names[0], serial=True)
    print_comparison(comparison.summary, Console(width=160))
    return {
        "benchmark": "one_process",
        "device": device_name(),
        "torch": torch.__version__,
        "num_cpus": os.cpu_count(),
        "config": config.model_dump(mode="json"),
        "comparison": as_json(comparison.summary),
        "rows": rows,
    }


def _one(config: TrainConfig) -> tuple[Path, float]:
    assert config.model.path is not None
    data = load_data(config.data, config.evaluation.num_probe_prompts, prompt_limit(config))
    check_data(config, data)
    print(f"{config.selection.selector}, seed {config.run.seed}", flush=True)
    start = time.monotonic()
    run_in_process(config, data, config.model.path, [Progress(config.run.num_steps, every_steps=10)])
    return config.run.directory, time.monotonic() - start


def device_name() -> str:
    """The GPU, or the processor's architecture where torch sees none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
