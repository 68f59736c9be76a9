"""Train a policy: ``python -m jobs.train --config configs/countdown.yaml run.num_steps=20 [--resume] [--dry-run]``."""

from __future__ import annotations

from collections.abc import Sequence

from actors.cluster import check_placement, cluster_for
from actors.training import prepare, run_training, start_model
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.opening import check_resume, check_run_folder, move_aside
from gps_ray.loop.plan import describe
from gps_ray.run.mirror import check_mirror
from gps_ray.run.progress import Progress
from jobs.cli import config_arguments, run_job


def main(argv: Sequence[str]) -> int:
    parser = config_arguments("Train a policy with a selector choosing the prompts.")
    begun = parser.add_mutually_exclusive_group()
    begun.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint of run.directory")
    begun.add_argument(
        "--restart", action="store_true", help="begin anew; an old run is moved to <run.directory>.old-N"
    )
    args = parser.parse_intermixed_args(argv)
    config, data = prepare(load_config(TrainConfig, args.config, args.overrides))
    if args.resume:
        check_resume(config, data)
    if args.dry_run:
        if not args.restart:
            check_run_folder(config, args.resume)
        check_mirror(config, args.resume)
        check_placement(config)
        print(describe(config, data))
        return 0
    if not args.resume:  # which may go on without
        check_mirror(config, resume=False)
    if args.restart and (aside := move_aside(config)) is not None:
        print(f"the old run is in {aside} now", flush=True)
    check_run_folder(config, args.resume)
    with Progress(config.run.num_steps) as progress, cluster_for(config) as dashboard:
        if dashboard:
            print(f"dashboard: {dashboard}", flush=True)
        progress.phase("warm start")
        start_model(config, args.resume, progress.warm_start)  # the run finds it made
        progress.phase("starting the actors")
        run_training(config, data, resume=args.resume, sinks=[progress])
    from gps_ray.study.report.run_report import write_report  # matplotlib, which no wrong config is to wait for

    print(f"report: {write_report(config.run.directory)}")
    return 0


if __name__ == "__main__":
    run_job(main)
