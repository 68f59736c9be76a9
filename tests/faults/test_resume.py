"""SIGKILL of the whole job, on real components: resumed it ends bit for bit like one that was never killed, and that
ran in one process without Ray."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from gps_ray.run.metrics import read_metrics
from gps_ray.run.outcomes import read_outcomes
from tests.processes import SMALL_RUN, Head, end, run_small_in_process, start_job, wait_for

pytestmark = pytest.mark.faults

RUN = (*SMALL_RUN, "run.num_steps=9", "checkpoint.every_steps=3", "evaluation.every_steps=4", "rollout.num_workers=2")


def _arguments(tmp_path: Path, name: str) -> tuple[str, ...]:
    return (*RUN, f"run.directory={tmp_path / name}")


def _steps(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return read_metrics(file) if file.exists() else []


def _finish(head: Head, tmp_path: Path, name: str, *more: str) -> None:
    process = start_job("train", *_arguments(tmp_path, name), *more, log=tmp_path / f"{name}.log", head=head)
    try:
        assert process.wait(280) == 0, (tmp_path / f"{name}.log").read_text()[-3000:]
    finally:
        end(process)


@pytest.mark.timeout(900)
def test_killed_at_step_7_and_resumed_it_ends_bit_for_bit_the_same(head: Head, tmp_path: Path) -> None:
    process = start_job("train", *_arguments(tmp_path, "killed"), log=tmp_path / "killed.log", head=head)
    try:
        wait_for("step 7", lambda: (steps := _steps(tmp_path / "killed")) and steps[-1]["step"] >= 7)
    finally:
        end(process, signal.SIGKILL)
    assert not (tmp_path / "killed" / "final_model").exists()
    _finish(head, tmp_path, "killed", "--resume")

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_small_in_process(_arguments(tmp_path, "whole"))
    assert (whole / "final_model" / "model.safetensors").read_bytes() == (
        killed / "final_model" / "model.safetensors"
    ).read_bytes()
    losses = [[row.get("train/loss") for row in _steps(run)] for run in (whole, killed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 10
    files = [sorted(p.name for p in (run / "outcomes").glob("*")) for run in (whole, killed)]
    assert files[0] == files[1]
    assert read_outcomes(whole / "outcomes")["step"].unique().to_pylist() == list(range(1, 10))
    for name in files[0]:
        # Predictions, selections and rewards of every group, as bytes.
        assert (whole / "outcomes" / name).read_bytes() == (killed / "outcomes" / name).read_bytes(), name
    # What was done after the last manifest was rolled back whole, not mixed in.
    assert list((killed / "discarded" / "outcomes").glob("*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_with_other_micro_batches_and_workers_and_says_so(head: Head, tmp_path: Path) -> None:
    few = ("run.num_steps=2", "checkpoint.every_steps=2", "evaluation.num_probe_prompts=0")
    _finish(head, tmp_path, "run", *few)
    log, file = tmp_path / "run.log", tmp_path / "run" / "notes.jsonl"
    assert not file.exists()
    changed = ("run.num_steps=3", "learning.microbatch_tokens=512", "rollout.num_workers=1")
    _finish(head, tmp_path, "run", *few, *changed, "--resume")
    (note,) = (json.loads(line) for line in file.read_text().splitlines())
    assert note["step"] == 2
    assert note["note"].startswith("resume: learning.microbatch_tokens 16384 -> 512: the run goes on, no longer equal")
    assert note["note"] in log.read_text()
    assert [row["step"] for row in _steps(tmp_path / "run")] == [0, 1, 2, 3]
