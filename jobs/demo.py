"""``make demo`` and ``make demo-llm``: train one model under two selectors and show what the selection bought.

Without arguments the embedded model on Countdown; with the arguments of ``make demo-llm`` a pretrained one, which is
fetched first: ``--config configs/smollm2_mixture.yaml --selectors uniform,gps_fused --fetch smollm2-135m-instruct``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from actors.cluster import cluster_for
from actors.comparing import run_comparison
from actors.training import prepare
from gps_ray.base.errors import ConfigError
from gps_ray.config import TrainConfig, load_config
from gps_ray.run.progress import PlainLines, Progress
from gps_ray.study.arms import by_selector
from gps_ray.study.report import print_comparison, read_comparison, write_comparison, write_report
from jobs.cli import config_arguments, name_list, run_job
from jobs.fetch_model import PACKAGES, fetch

SELECTORS = ("uniform", "gps")
# Steps by which a run's lines are thinned out: no more than about a dozen each.
NUM_LINES = 12


def main(argv: Sequence[str]) -> int:
    parser = config_arguments("The same small run under two selectors (one seed, an illustration).")
    parser.add_argument(
        "--selectors", type=name_list, default=SELECTORS, metavar="A,B,...", help="default: uniform,gps"
    )
    parser.add_argument("--fetch", choices=sorted(PACKAGES), default=None, help="make model.path of this, if missing")
    parser.set_defaults(config=Path("configs/demo.yaml"))
    args = parser.parse_intermixed_args(argv)
    config = load_config(TrainConfig, args.config, args.overrides)
    if args.fetch is not None:
        _fetch(args.fetch, config)  # what the arms are resolved to depends on the model
    arms = by_selector(config, args.selectors)
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


def _fetch(model: str, config: TrainConfig) -> None:
    if config.model.path is None:
        raise ConfigError("--fetch: expected a folder to make the model in, got model.path=null; set model.path")
    with PlainLines(f"fetching {model}") as lines:
        lines.say(f"model: {model} in {config.model.path}")
        fetch(model, config.model.path)


def _progress(selector: str, seed: int, config: TrainConfig) -> Progress:
    print(f"training with {selector} selection, seed {seed}", flush=True)
    return Progress(config.run.num_steps, every_steps=max(1, config.run.num_steps // NUM_LINES))


if __name__ == "__main__":
    run_job(main)
