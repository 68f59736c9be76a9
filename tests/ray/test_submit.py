"""``python -m jobs.submit`` from a folder of one's own: code goes along, the exit code comes back, stops checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.metrics import read_metrics
from tests.own_data import user_environment
from tests.processes import ROOT, SMALL_RUN, Head, wait_for

pytestmark = pytest.mark.ray

SELECTOR = """
from gps_ray.selection.uniform import UniformSelector


def mine(config, table, group_size, run_seed):
    return UniformSelector(table, run_seed)
"""


def _start(head: Head, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "my_selector.py").write_text(SELECTOR)
    (folder / "my_run.yaml").write_text("selection: {selector: 'my_selector:mine'}\nrollout: {engine: simulated}\n")
    command = [sys.executable, "-m", "jobs.submit", f"--address={head.dashboard}", "train", "--config", "my_run.yaml"]
    environment = user_environment(head) | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, *SMALL_RUN, f"run.directory={folder / 'run'}", "evaluation.num_probe_prompts=0", *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _end(submitted: subprocess.Popen[str]) -> str:
    return submitted.communicate(timeout=300)[0]


def _submitted(head: Head, folder: Path, *arguments: str) -> tuple[int, str]:
    """The head takes jobs a while after its dashboard answers."""

    def tried() -> tuple[int, str] | None:
        submitted = _start(head, folder, *arguments)
        output = _end(submitted)
        return None if "No available agent" in output else (submitted.returncode, output)

    result: tuple[int, str] = wait_for("the job agent", tried)
    return result


def test_own_code_goes_along_and_the_exit_code_comes_back(head: Head, tmp_path: Path) -> None:
    """Only who has the selector's code can tell that it takes no such option."""
    code, output = _submitted(head, tmp_path, "selection.options.strictness=2")
    assert code == 2, output
    assert "takes (config, table, group_size, run_seed), but is called" in output
    jobs = head.get("/api/jobs/")
    (job,) = [job for job in jobs if job["submission_id"] == output.split("job: ")[1].split()[0]]
    assert job["metadata"]["run"] == str(tmp_path / "run")
    assert len(job["metadata"]["config_sha256"]) == 64


@pytest.mark.slow
def test_a_submitted_run_ends_and_is_not_begun_anew(head: Head, tmp_path: Path) -> None:
    code, output = _submitted(head, tmp_path, "run.num_steps=2")
    assert code == 0, output
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 2
    again, said = _submitted(head, tmp_path, "run.num_steps=2")
    assert again == 2, said  # the folder holds a run
    assert "--resume" in said


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_and_says_how_to_stop_it(head: Head, tmp_path: Path) -> None:
    _submitted(head, tmp_path, "run.num_steps=1")  # the agent answers from here on
    run = tmp_path / "long"
    submitted = _start(head, tmp_path, f"run.directory={run}", "run.num_steps=100000", "checkpoint.every_steps=100000")
    wait_for("steps", lambda: [f for f in run.glob("metrics.jsonl") if len(f.read_bytes().splitlines()) > 3], 300)
    submitted.send_signal(signal.SIGINT)
    output = _end(submitted)
    assert submitted.returncode == 130
    stop = output.split("stop it, with a checkpoint: ray ")[1].split()
    stopped = head.ray(*stop)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    client = JobSubmissionClient(head.dashboard)
    assert client.get_job_status(stop[-1]).is_terminal()
    found = CheckpointStore(run, keep_last=2).newest()
    assert found is not None
    # No checkpoint was due: that of the stop.
    assert 0 < found[1].num_steps_done < 100_000
