"""What is submitted: command, name, metadata, and the code that goes along."""

from __future__ import annotations

import datetime
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.run.submission import PACKAGES, Submission, commit_of, plan_submission

ROOT = Path(__file__).parents[3]
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)


def _plan(folder: Path, *arguments: str, job: str = "train", **others: Any) -> Submission:
    return plan_submission(job, arguments, folder=folder, project=ROOT, now=NOW, **others)


def test_a_run_has_its_name_its_config_and_its_code(tmp_path: Path) -> None:
    (tmp_path / "my_run.yaml").write_text("run: {num_steps: 5, preemption_grace_s: 45}\n")
    arguments = ("--config", "my_run.yaml", "run.directory=/shared/runs/first", "rollout.stop=['a b']")
    plan = _plan(tmp_path, *arguments)
    assert shlex.split(plan.entrypoint) == ["python", "-m", "jobs.train", *arguments]
    assert plan.submission_id.startswith("first-20260102-030405-")
    assert plan.metadata["job_name"] == "first"
    assert plan.metadata["run"] == "/shared/runs/first"
    assert plan.metadata["config"] == "my_run.yaml"
    assert plan.runtime_env["working_dir"] == str(tmp_path)
    assert plan.runtime_env["py_modules"] == [str(ROOT / package) for package in PACKAGES]
    # Ray waits longer than the run takes to end by itself.
    assert plan.runtime_env["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "75"}


def test_the_hash_is_that_of_the_config_and_not_of_how_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run: {directory: /shared/a, num_steps: 5}\n")
    one = _plan(tmp_path, "--config=a.yaml")
    same = _plan(tmp_path, "run.num_steps=5", "run.directory=/shared/a", "--resume")
    other = _plan(tmp_path, "run.num_steps=6", "run.directory=/shared/a")
    assert one.metadata["config_sha256"] == same.metadata["config_sha256"] != other.metadata["config_sha256"]


def test_the_projects_own_folder_is_not_sent_twice() -> None:
    assert "py_modules" not in _plan(ROOT, "run.directory=/shared/a").runtime_env


@pytest.mark.parametrize(
    ("job", "arguments", "key"),
    [
        ("train", ("run.directory=runs/a",), "run.directory"),
        ("compare", ("--out", "runs/a"), "--out"),
        ("evaluate", (), "--out"),
        ("train", ("run.num_stps=5", "run.directory=/a"), "run.num_stps"),
    ],
)
def test_what_would_be_lost_or_is_wrong_is_said_before_anything_is_sent(
    tmp_path: Path, job: str, arguments: tuple[str, ...], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _plan(tmp_path, *arguments, job=job)
    assert str(caught.value).startswith(key)


def test_a_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == "none"
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b")
    (tmp_path / "file").write_text("1")
    for words in (("init", "-q"), ("add", "file"), ("commit", "-qm", "first")):
        subprocess.run([*git, *words], check=True, timeout=60)
    clean = commit_of(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == f"{clean}-dirty"
