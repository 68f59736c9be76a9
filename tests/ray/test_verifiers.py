"""A verifier of a user's own in a real run: one that stops working ends it, one that fails now and then does not."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from gps_ray.run.metrics import read_metrics
from tests.own_data import copy_project, make_own_model, run_own_job, write_own_data
from tests.processes import Head, wait_for

pytestmark = pytest.mark.ray

# The model says numbers only: what the trial before the start says, and nothing, is judged as it should be.
REWARDS = """
import os
import subprocess
from pathlib import Path

count = 0


def _is_the_models(response):
    return bool(response) and set(response) <= set("0123456789 ")


def breaks_down(response, ground_truth):
    child = subprocess.Popen(["sleep", "6000"])
    with Path("pids").open("a") as file:
        print(os.getpid(), child.pid, file=file)
    if _is_the_models(response):
        raise ValueError("the judge is down")
    return ground_truth in response


def fails_three_of_eight(response):
    global count
    if not _is_the_models(response):
        return False
    count += 1
    if count % 8 < 3:
        raise ValueError("no verdict")
    return True
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_own_model(tmp_path / "model")
    write_own_data(tmp_path)
    copy_project(tmp_path)
    (tmp_path / "my_rewards.py").write_text(REWARDS.replace('Path("pids")', f"Path({str(tmp_path / 'pids')!r})"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_verifier_that_breaks_down_ends_the_run_in_one_line_and_leaves_no_process(folder: Path, head: Head) -> None:
    ended = run_own_job(folder, "data.task=my_rewards:breaks_down", head=head)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    # All but the empty ones.
    said_of = r"error: evaluation of policy version 0: (2\d|3[0-2]) of 32 rollouts have no verdict, expected at most "
    assert re.match(said_of + r"rollout\.max_failed_share=0\.5", line)
    assert "ValueError: the judge is down" in line
    assert "Traceback" not in said
    assert not (folder / "run" / "final_model").exists()
    pids = (folder / "pids").read_text().split()
    assert len(pids) > 20
    wait_for("the verifiers and their children to end", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


@pytest.mark.slow
def test_missing_verdicts_are_shown_and_raise_no_score(folder: Path, head: Head) -> None:
    ended = run_own_job(folder, "data.task=my_rewards:fails_three_of_eight", head=head)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row in rows[1:]:
        assert row["rollout/num_failed"] == pytest.approx(12, abs=3)  # of 32
    measured = [row for row in rows if "val/pass@1" in row]
    assert measured
    for row in measured:
        # 8 prompts with 4 responses: none was judged wrong but an empty one.
        assert row["val/num_failed"] == pytest.approx(12, abs=3)
        assert row["val/pass@1"] <= 1 - row["val/num_failed"] / 32 + 1e-6
