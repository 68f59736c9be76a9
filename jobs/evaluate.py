"""Evaluate a model: ``python -m jobs.evaluate --config FILE model.path=runs/x/final_model [--out FILE.json]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.cluster import cluster_for
from actors.evaluating import evaluate_model
from actors.training import prepare
from gps_ray.base.json_files import write_json
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.evaluation import table_rows
from gps_ray.loop.plan import describe
from jobs.cli import config_arguments, print_table, run_job


def main(argv: Sequence[str]) -> int:
    parser = config_arguments("pass@1 and pass@k of a model on the evaluation set, with 95 % intervals over prompts.")
    parser.add_argument("--out", type=Path, default=None, help="write the figures as JSON")
    args = parser.parse_intermixed_args(argv)
    config, data = prepare(load_config(TrainConfig, args.config, args.overrides))
    if args.dry_run:
        print(describe(config, data))
        return 0
    with cluster_for(config):
        metrics = evaluate_model(config, data.evaluation)
    print_table("evaluation", ("metric", "value", "95 % interval"), table_rows(metrics))
    if args.out is not None:
        write_json(args.out, metrics)
    return 0


if __name__ == "__main__":
    run_job(main)
