"""Make and warm-start the embedded model: ``python -m jobs.warm_start --config FILE [key=value ...]``.

Prints the model's folder. A second call with the same settings finds it there and starts nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from actors.cluster import cluster_for
from actors.training import prepare
from actors.warm_start_trainer import ensure_model, find_model
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.plan import describe
from jobs.cli import config_arguments, run_job


def main(argv: Sequence[str]) -> int:
    args = config_arguments(
        "Train the embedded model on generated solutions; cached by what determines it."
    ).parse_intermixed_args(argv)
    config, data = prepare(load_config(TrainConfig, args.config, args.overrides))
    if args.dry_run:
        print(describe(config, data))
        return 0
    folder = find_model(config)
    if folder is None:
        with cluster_for(config):
            folder = ensure_model(config, _show)
    print(folder)
    return 0


def _show(step: int, num_steps: int, loss: float) -> None:
    print(f"warm start: step {step} of {num_steps}, loss {loss:.3f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_job(main)
