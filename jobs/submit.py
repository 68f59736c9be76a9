"""Submit a job to a Ray cluster: ``python -m jobs.submit train --config my_run.yaml run.directory=/shared/runs/first``.

The folder it is called in becomes the job's working directory, and this project goes along where that folder does not
hold it. The job has the run's name; its metadata are the run's folder, the config's hash and the commits. The log is
followed to the end, and the exit code is the job's. Ctrl-C leaves the job running and says how to stop it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gps_ray.run.submission import JOBS, Submission, plan_submission
from jobs.cli import run_job

ADDRESS = "http://127.0.0.1:8265"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Submit a job to a Ray cluster, and follow it.")
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", ADDRESS),
        help=f"the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, else {ADDRESS}",
    )
    parser.add_argument("--no-wait", action="store_true", help="leave as soon as the cluster has the job")
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted, submit nothing")
    parser.add_argument("job", choices=sorted(JOBS), help="which job")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments, as python -m jobs.JOB takes them")
    return parser


def main(argv: Sequence[str]) -> int:
    args = _arguments().parse_args(argv)
    project, now = Path(__file__).parents[1], datetime.datetime.now()
    submission = plan_submission(args.job, args.arguments, folder=Path.cwd(), project=project, now=now)
    if args.dry_run:
        _show(submission)
        return 0
    from actors.submitting import follow, submit  # a dry run needs no Ray

    client = submit(args.address, submission)
    print(f"job: {submission.submission_id}", flush=True)
    if args.no_wait:
        print(_how_on(args.address, submission), flush=True)
        return 0
    try:
        return follow(client, submission.submission_id)
    except SystemExit:  # a signal
        print(f"the job goes on\n{_how_on(args.address, submission)}", file=sys.stderr, flush=True)
        raise


def _how_on(address: str, submission: Submission) -> str:
    of_job = f"--address {address} {submission.submission_id}"
    return f"watch it: ray job logs --follow {of_job}\nstop it, with a checkpoint: ray job stop {of_job}"


def _show(submission: Submission) -> None:
    print(f"job: {submission.submission_id}\ncommand: {submission.entrypoint}")
    for name, value in (*submission.metadata.items(), *submission.runtime_env.items()):
        print(f"{name}: {value}")


if __name__ == "__main__":
    run_job(main)
