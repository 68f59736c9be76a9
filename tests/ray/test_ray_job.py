"""``ray job submit`` on a head with token authentication: the run, what can be watched of it, and stopping it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.metrics import read_metrics
from tests.processes import SMALL_RUN, Head, wait_for
from tests.reliability import record

pytestmark = pytest.mark.ray

METRICS = (
    "ray_gps_ray_phase_seconds",
    "ray_gps_ray_step_seconds",
    "ray_gps_ray_tokens_per_second",
    "ray_gps_ray_useful_group_ratio",
    "ray_gps_ray_pool_probe_spearman",
    "ray_gps_ray_queue_depth",
)


def _alive(head: Head) -> list[int]:
    return [row["pid"] for row in _run_actors(head) if row["state"] == "ALIVE"]


def _metrics_page(head: Head) -> str:
    return requests.get(f"http://127.0.0.1:{head.metrics_port}/metrics", timeout=30).text


def _submit(head: Head, tmp_path: Path, *overrides: str, wait: bool = True) -> Any:
    arguments = ["job", "submit", f"--address={head.dashboard}", "--working-dir=.", *([] if wait else ["--no-wait"])]
    arguments += ["--submission-id", f"test-{tmp_path.name}", "--", sys.executable, "-m", "jobs.train", *SMALL_RUN]
    arguments += [f"run.directory={tmp_path / 'run'}", *overrides]
    # The head takes jobs a while after its dashboard answers, once the node's agent has reported.
    return wait_for("the job agent", lambda: _unless_too_early(head.ray(*arguments)))


def _unless_too_early(submitted: Any) -> Any:
    return None if "No available agent" in submitted.stdout + submitted.stderr else submitted


def _run_actors(head: Head) -> list[dict[str, Any]]:
    """Living and dead ones: the jobs of several tests share the names."""
    rows = head.get("/api/v0/actors?detail=true&limit=1000")["data"]["result"]["result"]
    return [row for row in rows if row["name"].startswith("run/")]


@pytest.mark.slow  # test_submit.py has a shorter one that succeeds, and below is one of a real model
def test_a_submitted_run_succeeds_and_its_actors_are_listed(head: Head, tmp_path: Path) -> None:
    submitted = _submit(head, tmp_path, "run.num_steps=2", "evaluation.every_steps=2", "rollout.num_workers=2")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 2
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    names = {row["name"] for row in _run_actors(head)}
    assert {"run/selector", "run/learner", "run/rollout-worker-0", "run/rollout-worker-1"} <= names


def test_without_the_token_the_dashboard_turns_away(head: Head) -> None:
    assert requests.get(head.dashboard + "/api/jobs/", timeout=30).status_code == 401


@pytest.mark.slow  # test_open_folder.py has the check
def test_a_relative_run_directory_is_refused_in_a_job(head: Head, tmp_path: Path) -> None:
    submitted = _submit(head, tmp_path, "run.directory=runs/lost")
    assert submitted.returncode != 0
    assert "run.directory" in submitted.stdout + submitted.stderr
    assert "temporary working directory" in submitted.stdout + submitted.stderr


def test_a_run_is_watched_and_stopping_it_leaves_a_whole_manifest_and_no_process(head: Head, tmp_path: Path) -> None:
    often = ("checkpoint.every_steps=2", "evaluation.every_steps=5")
    submitted = _submit(head, tmp_path, "run.num_steps=5000", *often, wait=False)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    run, job = tmp_path / "run", f"/api/jobs/test-{tmp_path.name}"
    # Manifest 0 comes before the first step.
    wait_for("a step's manifest", lambda: list(run.glob("checkpoints/step_00000[1-9]*/manifest.json")), 300)
    # Selector, learner and rollout worker; the dashboard hears of them a moment later.
    pids = wait_for("three actors", lambda: len(alive := _alive(head)) >= 3 and alive)
    # Ray collects them every few seconds from living processes: what a run says last before it ends may be lost.
    wait_for("the run's metrics", lambda: all(name in _metrics_page(head) for name in METRICS))
    told = time.monotonic()
    stopped = head.ray("job", "stop", f"--address={head.dashboard}", f"test-{tmp_path.name}")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    wait_for("the run's processes to end", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    log = wait_for(
        "the job's last line", lambda: "SIGTERM: stopped after step" in (log := head.get(f"{job}/logs")["logs"]) and log
    )
    assert "SIGTERM: ending after the step at hand with a checkpoint" in log
    assert not any(native in log for native in ("Traceback", "Stack trace", "SIGABRT"))
    ended = head.get(job)
    record("ray job stop", ended["message"], ended["driver_exit_code"], time.monotonic() - told)
    found = CheckpointStore(run, keep_last=2).newest()
    assert found is not None
    assert found[1].num_steps_done >= 2
