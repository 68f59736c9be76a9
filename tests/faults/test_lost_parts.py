"""A process that a run needs is killed: one line, exit code 3, and nothing of the job is left ten seconds later."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.metrics import read_metrics
from tests.processes import end, process_tree, start_job, wait_for
from tests.reliability import record

pytestmark = [pytest.mark.faults, pytest.mark.slow]  # each needs a Ray of its own, and loses it

RUN = (
    "rollout.engine=simulated",
    "rollout.simulated.latency_s=0.05",
    "run.num_steps=5000",
    "run.max_idle_steps=null",
    "selection.selector=uniform",
    "selection.num_prompts=8",
    "data.countdown.num_pool_prompts=60",
    "data.countdown.num_evaluation_prompts=8",
    "data.countdown.num_heldout_probe_prompts=8",
    "evaluation.num_probe_prompts=8",
    "evaluation.every_steps=5",
    "checkpoint.every_steps=2",
    "cluster.local_dashboard=false",
)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _alive(commands: dict[int, str]) -> Iterator[str]:
    """Of these processes those that still run; a zombie has no command line, another process another one."""
    # A worker of Ray renames itself with every call, so its first word is what stays.
    for pid, command in commands.items():
        now = _command(pid)
        if now and now.split(".")[0].split(" ")[0] == command.split(".")[0].split(" ")[0]:
            yield f"{pid} {command[:80]}"


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        ("ray::SelectorActor", "the selector actor died ("),
        ("ray::LearnerActor", "the learner actor died ("),
        ("ray::RayTrainWorker", "the train worker was lost ("),
        ("gcs_server", "error: Ray's head (gcs) at "),
        ("raylet/raylet", "error: this machine's Ray node (raylet) was lost; "),
    ],
)
@pytest.mark.timeout(400)
def test_a_lost_process_is_one_line(victim: str, said: str, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    process = start_job("train", *RUN, f"run.directory={run}", log=log)
    try:
        steps = run / "metrics.jsonl"
        wait_for("step 3", lambda: steps.exists() and read_metrics(steps)[-1:] and read_metrics(steps)[-1]["step"] >= 3)
        commands = {pid: _command(pid) for pid in process_tree(process.pid)}
        killed = time.monotonic()
        os.kill(next(pid for pid, command in commands.items() if victim in command), signal.SIGKILL)
        assert process.wait(120) == 3, log.read_text()[-3000:]
        began = time.monotonic()
        record(f"SIGKILL of {victim}", log.read_text().splitlines()[-1], 3, began - killed)
        wait_for("the job's processes to end", lambda: not list(_alive(commands)), 60)
        assert time.monotonic() - began < 10
    finally:
        end(process, signal.SIGKILL)
    text = log.read_text()
    last = text.splitlines()[-1]
    assert last.startswith("error: "), text[-3000:]
    assert said in last
    assert "--resume goes on from the last checkpoint" in last
    assert "Traceback" not in text
    assert sum("state-dump" in line for line in text.splitlines()) == 0
    found = CheckpointStore(run, keep_last=2).newest()
    assert found is not None
    assert found[1].num_steps_done >= 2
