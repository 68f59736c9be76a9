"""Submit a job to a Ray cluster by Ray's own client, and follow it to its end."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from gps_ray.base.errors import ResourceError, one_line
from gps_ray.run.submission import Submission

__all__ = ["follow", "submit"]

_POLL_S = 1.0
# What a shell makes of a process that SIGTERM ended: `ray job stop` sends it to the driver.
_STOPPED = 143


def submit(address: str, submission: Submission) -> JobSubmissionClient:
    """Send the code and start the job; returns the client that did. Raises ResourceError where the cluster does not
    answer, does not take the token, or the code is too large to be sent."""
    if Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        client = JobSubmissionClient(address)
        client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.submission_id,
            metadata=submission.metadata,
            runtime_env=submission.runtime_env,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"--address: {address} does not take the job: {one_line(error)}") from error
    return client


def follow(client: JobSubmissionClient, submission_id: str) -> int:
    """Print what the job prints until it has ended; returns its exit code (143 where it was stopped)."""
    try:
        asyncio.run(_print_log(client, submission_id))
        while not (status := client.get_job_status(submission_id)).is_terminal():
            time.sleep(_POLL_S)
        details = client.get_job_info(submission_id)
    except RuntimeError as error:
        raise ResourceError(
            f"--address: lost sight of the job {submission_id}: {one_line(error)}; it may go on: see `ray job status`"
        ) from error
    if status is JobStatus.SUCCEEDED:
        return 0
    print(f"{submission_id}: {status.value.lower()}: {one_line(RuntimeError(details.message or ''))}", flush=True)
    return _STOPPED if status is JobStatus.STOPPED else details.driver_exit_code or 1


async def _print_log(client: JobSubmissionClient, submission_id: str) -> None:
    async for lines in client.tail_job_logs(submission_id):
        print(lines, end="", flush=True)
