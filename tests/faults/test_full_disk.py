"""A real run on a disk that fills up: checkpoints are skipped, nothing ends, and with room again it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.metrics import read_metrics
from tests.processes import SMALL_RUN, Head, end, start_job, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def _fill(ballast: Path) -> None:
    """Lines find room then, a checkpoint does not. The run writes meanwhile, so what is free cannot be known before."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(100_000))
    os.truncate(ballast, ballast.stat().st_size - 200_000)


@pytest.mark.timeout(600)
def test_a_run_outlives_a_disk_that_is_full_for_a_while(head: Head, small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    run, log, ballast = small_disk / "run", tmp_path / "log", small_disk / "ballast"
    settings = (*SMALL_RUN, f"run.directory={run}", "run.num_steps=8", "checkpoint.every_steps=1")
    more = ("evaluation.every_steps=8", "checkpoint.keep_last=1", "checkpoint.max_skipped=8")
    process = start_job("train", *settings, *more, log=log, head=head)
    try:
        wait_for("the first checkpoint", lambda: list(run.glob("checkpoints/*/manifest.json")))
        _fill(ballast)
        wait_for("a checkpoint that is skipped", lambda: "checkpoint skipped, number 1" in log.read_text())
        ballast.unlink()
        assert process.wait(280) == 0, log.read_text()[-3000:]
    finally:
        end(process, signal.SIGKILL)
    said = log.read_text()
    assert ": no room" in said
    assert "the disk is full, " in said
    assert "Traceback" not in said
    assert read_metrics(run / "metrics.jsonl")[-1]["checkpoint/num_skipped"] >= 1
    found = CheckpointStore(run, 1).newest()
    assert found is not None
    assert found[1].num_steps_done == 8
