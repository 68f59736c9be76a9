"""What a job is on a cluster: its command, its name, what is written down beside it, and the code that goes along."""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gps_ray.base.errors import ConfigError
from gps_ray.config import TrainConfig, load_config

__all__ = ["JOBS", "PACKAGES", "Submission", "commit_of", "plan_submission"]

# The option or key that says where a job writes.
JOBS = {"train": "run.directory", "compare": "--out", "evaluate": "--out"}
# What a job imports of this project.
PACKAGES = ("gps_ray", "actors", "jobs")
# Beside what .gitignore names, which Ray leaves at home too.
_LEFT_AT_HOME = ("/.git/", "/.venv/", "/runs/")
# A stopped run ends its step and writes a checkpoint; what Ray waits beyond the run's own limit.
_GRACE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What Ray's submission is given."""

    submission_id: str
    entrypoint: str
    metadata: dict[str, str]
    runtime_env: dict[str, Any]


def plan_submission(
    job: str, arguments: Sequence[str], *, folder: Path, project: Path, now: datetime.datetime
) -> Submission:
    """``python -m jobs.<job> <arguments>`` as a job, with ``folder`` as its working directory.

    ``project`` holds this project's packages; they go along where ``folder`` does not hold them itself. Raises
    ConfigError for a config that is none, and where the results would go with the job's copy of ``folder``.
    """
    config = load_config(TrainConfig, _config_file(arguments, folder), [a for a in arguments if _is_override(a)])
    out = config.run.directory if job == "train" else Path(_option(arguments, "--out") or "")
    if not out.is_absolute():
        raise ConfigError(
            f"{JOBS[job]}: {str(out)!r} would lie in the job's temporary copy of this folder; give an absolute path on "
            "storage that all nodes see"
        )
    digest = hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    metadata = {
        "job_name": out.name,
        "run": str(out),
        "config": _option(arguments, "--config") or "defaults",
        "config_sha256": digest,
        "commit": commit_of(folder),
        "gps_ray_commit": commit_of(project),
    }
    runtime_env: dict[str, Any] = {
        "working_dir": str(folder),
        "excludes": list(_LEFT_AT_HOME),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(int(config.run.preemption_grace_s) + _GRACE_S)},
    }
    if not all((folder / package).is_dir() for package in PACKAGES):
        runtime_env["py_modules"] = [str(project / package) for package in PACKAGES]
    return Submission(
        submission_id=f"{out.name}-{now:%Y%m%d-%H%M%S}-{digest[:6]}",
        entrypoint=shlex.join(["python", "-m", f"jobs.{job}", *arguments]),
        metadata=metadata,
        runtime_env=runtime_env,
    )


def commit_of(folder: Path) -> str:
    """The commit checked out there, with ``-dirty`` where tracked files differ from it; ``none`` without git."""
    git = ("git", "-C", str(folder))
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "none"
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def _config_file(arguments: Sequence[str], folder: Path) -> Path | None:
    name = _option(arguments, "--config")
    return None if name is None else folder / name


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option, written ``--name value`` or ``--name=value``; None where it is not there."""
    for number, argument in enumerate(arguments):
        if argument == name and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")
