"""``make demo``: train the embedded model under uniform and GPS selection and show what the selection bought."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from actors.cluster import cluster_for
from actors.comparing import run_comparison
from actors.training import prepare
from gps_ray.config import TrainConfig, load_config
from gps_ray.run.progress import Progress
from gps_ray.study.arms import by_selector
from gps_ray.study.report import print_comparison, read_comparison, write_comparison, write_report
from jobs.cli import config_arguments, run_job

SELECTORS = ("uniform", "gps")


def main(argv: Sequence[str]) -> int:
    parser = config_arguments("The same small run under uniform and GPS selection (one seed, an illustration).")
    parser.set_defaults(config=Path("configs/demo.yaml"))
    args = parser.parse_intermixed_args(argv)
    config = load_config(TrainConfig, args.config, args.overrides)
    arms = by_selector(config, SELECTORS)
    prepare(config)  # what is wrong is said before the folder of an earlier demo goes
    shutil.rmtree(config.run.directory, ignore_errors=True)
    with cluster_for(config):
        folders = run_comparison(arms, (config.run.seed,), config.run.directory, _progress, serial=True)
    for of_seed in folders.values():
        for path in of_seed.values():
            write_report(path)
    comparison = read_comparison(folders, serial=True)
    print_comparison(comparison.summary)
    print(f"report: {write_comparison(comparison, config.run.directory / 'report.html')}")
    return 0


def _progress(selector: str, seed: int, config: TrainConfig) -> Progress:
    print(f"training with {selector} selection, seed {seed}", flush=True)
    return Progress(config.run.num_steps, every_steps=10)


if __name__ == "__main__":
    run_job(main)
