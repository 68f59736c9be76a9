"""SIGKILL, and the disk with it: a run on an empty machine goes on from S3 and ends bit for bit the same."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gps_ray.run.metrics import read_metrics
from gps_ray.run.object_folder import ObjectFolder
from tests.loop.ports import Run, results, simulated_config
from tests.processes import ROOT, SMALL_RUN, Head, end, job_environment, start_job, wait_for
from tests.s3 import s3_bucket

pytestmark = pytest.mark.faults

# The loop with its in-process ports, in a process that can be killed.
CHILD = """
import sys
from pathlib import Path
from tests.loop.ports import Run, simulated_config
Run(simulated_config(Path(sys.argv[2]), *sys.argv[3:]), resume=sys.argv[1] == "resume")()
"""
STEPS = ("run.num_steps=30", "checkpoint.every_steps=1", "evaluation.every_steps=10", "run.mirror_deadline_s=120")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with s3_bucket(monkeypatch, tmp_path / "s3.log") as uri:
        yield uri


def _start(how: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, how, *arguments],
            cwd=ROOT,
            env=job_environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _manifests(there: ObjectFolder) -> set[str]:
    return {name for name in there.sizes() if name.startswith("checkpoints/") and name.endswith("manifest.json")}


def test_killed_again_and_again_with_its_disk_it_ends_bit_for_bit_the_same(tmp_path: Path, bucket: str) -> None:
    Run(simulated_config(tmp_path / "whole", *STEPS))()
    folder, log = tmp_path / "run", tmp_path / "run.log"
    # Steps that take their time: between two kills one is uploaded, and the run is not over by then.
    arguments = (str(folder), *STEPS, f"run.mirror={bucket % 'chain'}", "rollout.simulated.latency_s=0.2")
    there, num_kills, how = ObjectFolder(bucket % "chain"), 0, "begin"
    for num_more in (2, 3, 5, 2, 4):
        uploaded = _manifests(there)
        process = _start(how, *arguments, log=log)
        try:
            fetched = wait_for("the folder", lambda: _num_lines(folder / "metrics.jsonl"))
            wait_for(
                "some steps, and one of them on the mirror",
                lambda begun=fetched, more=num_more, before=uploaded, child=process: (
                    (_num_lines(folder / "metrics.jsonl") >= begun + more and _manifests(there) - before)
                    or child.poll() is not None
                ),
            )
        finally:
            end(process, signal.SIGKILL)
        num_kills += process.returncode == -signal.SIGKILL
        shutil.rmtree(folder)
        how = "resume"
    process = _start("resume", *arguments, log=log)
    assert process.wait(280) == 0, log.read_text()[-3000:]
    assert num_kills >= 3
    assert results(folder) == results(tmp_path / "whole")
    # The newest, and whichever was uploaded before it: one that comes while another goes up gives way to the next.
    kept = {name.split("/")[1] for name in there.sizes() if name.startswith("checkpoints/")}
    assert len(kept) == 2
    assert "step_000030.0" in kept
    assert "fetched the checkpoint of step" in log.read_text()


@pytest.mark.slow
def test_a_driver_that_slept_leaves_the_mirror_to_the_one_that_took_it(tmp_path: Path, bucket: str) -> None:
    """SIGSTOP, another driver on an empty disk takes the mirror and ends the run, SIGCONT: its run ends too, in its own
    folder, and nothing of it comes to the mirror."""
    steps = (*STEPS, "rollout.simulated.latency_s=0.2", "run.lease_s=2", f"run.mirror={bucket % 'slept'}")
    Run(simulated_config(tmp_path / "whole", *STEPS))()
    there = ObjectFolder(bucket % "slept")
    slept = _start("begin", str(tmp_path / "slept"), *steps, log=tmp_path / "slept.log")
    try:
        wait_for("a checkpoint on the mirror", lambda: _manifests(there))
        slept.send_signal(signal.SIGSTOP)
        assert slept.poll() is None, "it was over before it was stopped"
        took = wait_for("the lease to run out", lambda: _goes_on(tmp_path, *steps))
        end_of_other = there.sizes()
        slept.send_signal(signal.SIGCONT)
        assert slept.wait(200) == 0, (tmp_path / "slept.log").read_text()[-3000:]
    finally:
        end(slept, signal.SIGKILL)
    assert "this run mirrors no more" in (tmp_path / "slept.log").read_text()
    assert there.sizes() == end_of_other
    assert results(took) == results(tmp_path / "whole")
    assert results(tmp_path / "slept") == results(tmp_path / "whole")


def _goes_on(tmp_path: Path, *arguments: str) -> Path | None:
    """Where a resume on an empty disk ended the run; None while it is refused."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    log = folder / "log"
    process = _start("resume", str(folder / "run"), *arguments, log=log)
    if process.wait(200) == 0:
        return folder / "run"
    assert "is held by process" in log.read_text()
    return None


def test_a_store_that_never_answers_ends_neither_the_run_nor_its_exit(tmp_path: Path) -> None:
    """It takes connections, and says nothing. The run begins while the store is a folder, as the start asks it."""
    Run(simulated_config(tmp_path / "run", "run.num_steps=2"))()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        uri = f"s3://bucket/run?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{port}"
        process = _start(
            "resume",
            str(tmp_path / "run"),
            f"run.mirror={uri}",
            "run.mirror_deadline_s=1",
            log=tmp_path / "log",
        )
        try:
            assert process.wait(200) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            end(process, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert "the run goes on from its folder" in said
    assert "(run.mirror_deadline_s) is over" in said
    assert "Traceback" not in said
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_run_killed_with_its_disk_goes_on_from_s3(head: Head, tmp_path: Path, bucket: str) -> None:
    run = (*SMALL_RUN, "run.num_steps=6", "checkpoint.every_steps=2", "evaluation.every_steps=6")

    # The head was started before this test had keys.
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    joining = replace(head, environment=head.environment | keys)

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        arguments = (*run, f"run.directory={tmp_path / name}", *more)
        return start_job("train", *arguments, log=tmp_path / f"{name}.log", head=joining)

    whole = start("whole")
    try:
        assert whole.wait(280) == 0, (tmp_path / "whole.log").read_text()[-3000:]
    finally:
        end(whole)
    mirror = f"run.mirror={bucket % 'real'}"
    there = ObjectFolder(bucket % "real")
    killed = start("killed", mirror)
    try:
        wait_for("step 2 on the mirror", lambda: "checkpoints/step_000002.0/manifest.json" in there.sizes())
    finally:
        end(killed, signal.SIGKILL)
    shutil.rmtree(tmp_path / "killed")
    # Nor is the warm start on the new machine, where another might come out.
    again = start("killed", mirror, "--resume", f"warm_start.cache_directory={tmp_path / 'new'}")
    try:
        assert again.wait(280) == 0, (tmp_path / "killed.log").read_text()[-3000:]
    finally:
        end(again)
    assert not (tmp_path / "new").exists()
    weights = Path("final_model") / "model.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert there.read(weights.as_posix()) == (tmp_path / "whole" / weights).read_bytes()
    segments = [{p.name: p.read_bytes() for p in (tmp_path / n / "outcomes").glob("*")} for n in ("killed", "whole")]
    assert segments[0] == segments[1]
