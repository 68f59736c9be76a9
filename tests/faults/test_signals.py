"""SIGTERM to a driver, as Kubernetes, Slurm and ``ray job stop`` send it: a checkpoint, one line, 143."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.metrics import read_metrics
from tests.processes import SMALL_RUN, Head, end, start_job, wait_for
from tests.reliability import record

# `ray job stop`, in test_ray_job.py, sends the same signal; test_breaks.py has the exit code.
pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_a_run_that_is_told_to_end_leaves_a_checkpoint_of_its_last_step(head: Head, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    long = ("run.num_steps=500", "checkpoint.every_steps=500", "evaluation.every_steps=500")
    process = start_job("train", *SMALL_RUN, *long, f"run.directory={run}", log=log, head=head)
    try:
        steps = run / "metrics.jsonl"
        wait_for("a step", lambda: steps.exists() and read_metrics(steps)[-1:] and read_metrics(steps)[-1]["step"] >= 1)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143, log.read_text()
        record("SIGTERM of the driver", log.read_text().splitlines()[-1], 143, time.monotonic() - told)
    finally:
        end(process)
    text = log.read_text()
    assert "SIGTERM: ending after the step at hand with a checkpoint" in text
    assert text.splitlines()[-1].startswith("SIGTERM: stopped after step")
    for native in ("Traceback", "Stack trace", "SIGABRT", "*** "):
        assert native not in text
    found = CheckpointStore(run, keep_last=2).newest()
    assert found is not None
    assert found[1].num_steps_done == read_metrics(steps)[-1]["step"] >= 1
