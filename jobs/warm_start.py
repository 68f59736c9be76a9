"""Make and warm-start the embedded model: ``python -m jobs.warm_start --config FILE [key=value ...]``."""

from __future__ import annotations

from collections.abc import Sequence

from actors.cluster import cluster_for
from actors.training import prepare
from actors.warm_start_trainer import ensure_model
from gps_ray.cli import config_arguments, run_job
from gps_ray.config import TrainConfig, load_config
from gps_ray.plan import describe


def main(argv: Sequence[str]) -> int:
    args = config_arguments(
        "Train the embedded model on generated solutions; cached by what determines it."
    ).parse_args(argv)
    config, data = prepare(load_config(TrainConfig, args.config, args.overrides))
    if args.dry_run:
        print(describe(config, data))
        return 0
    with cluster_for(config):
        print(ensure_model(config))
    return 0


if __name__ == "__main__":
    run_job(main)
