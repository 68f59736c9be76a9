"""jobs.compare on a real cluster: runs side by side, and going on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gps_ray.study.report.run_data import read_run
from jobs.compare import main
from tests.processes import SMALL_RUN, Head, end, run_job, start_job, wait_for

pytestmark = pytest.mark.ray

# One CPU per run: two runs fit two CPUs.
SMALL = (
    *SMALL_RUN,
    "run.num_steps=4",
    "checkpoint.every_steps=2",
    "evaluation.every_steps=2",
    "learning.num_cpus_per_worker=0.5",
)


def _curves(out: Path) -> dict[str, list[list[float]]]:
    """pass@1 at each evaluation, by arm and seed as compare.json names them."""
    summary = json.loads((out / "compare.json").read_text())
    folders = {name: [out / name / f"seed_{seed}" for seed in summary["seeds"]] for name in summary["arms"]}
    return {
        name: [read_run(folder).series("val/pass@1")[1].tolist() for folder in of_seeds]
        for name, of_seeds in folders.items()
    }


ARGUMENTS = ("--selectors", "uniform,oracle", *SMALL, "selection.candidate_multiple=2", "--seeds", "0")


def test_runs_go_side_by_side_and_finished_ones_are_left_alone(
    head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Simulated runs, which begin in half the time; the test below has real ones."""
    out, log = tmp_path / "compared", tmp_path / "log.txt"
    arguments = (*ARGUMENTS, "rollout.engine=simulated", "--out", str(out))
    job = start_job("compare", *arguments, log=log, head=head)
    try:
        wait_for(
            "two runs at once",
            lambda: (
                job.poll() is not None
                or all((out / name / "seed_0" / "metrics.jsonl").exists() for name in ("uniform", "oracle"))
            ),
        )
        assert job.poll() is None, log.read_text()
        assert not (out / "compare.json").exists()
        assert job.wait(600) == 0, log.read_text()
    finally:
        end(job)
    assert "oracle (not charged)" in log.read_text()
    assert (out / "report.html").stat().st_size > 10_000
    assert all(len(curves[0]) == 3 for curves in _curves(out).values())

    # Each run has the settings of its own selector's preset, not those of the config's.
    for name in ("uniform", "oracle"):
        selection = yaml.safe_load((out / name / "seed_0" / "config.yaml").read_text())["selection"]
        assert (selection["selector"], selection["predictor"]) == (name, None)

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/metrics.jsonl")}
    assert main([*arguments, f"cluster.address={head.address}"]) == 0
    assert "oracle (not charged)" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*/metrics.jsonl")}


@pytest.mark.slow
def test_stopped_and_resumed_or_one_by_one_the_runs_are_the_same(head: Head, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    job = start_job("compare", *ARGUMENTS, "--out", str(stopped), log=tmp_path / "log.txt", head=head)
    try:
        wait_for("a checkpoint", lambda: list(stopped.glob("uniform/seed_0/checkpoints/step_000002*/manifest.json")))
        assert not (stopped / "compare.json").exists()
    finally:
        end(job)
    resumed = run_job("compare", *ARGUMENTS, "--out", str(stopped), head=head, timeout_s=600)
    assert resumed.returncode == 0, resumed.stderr

    # The same, given as variants.
    serial, variants = tmp_path / "serial", tmp_path / "variants.yaml"
    variants.write_text("uniform: [selection.selector=uniform]\noracle: [selection.selector=oracle]\n")
    chosen = ("--variants", str(variants), "--seeds", "0", "--out", str(serial), "--serial")
    whole = run_job("compare", *SMALL, "selection.candidate_multiple=2", *chosen, head=head, timeout_s=600)
    assert whole.returncode == 0, whole.stderr
    for name, curves in _curves(serial).items():
        assert curves[0] == _curves(stopped)[name][0]


def test_a_wrong_selector_is_said_before_anything_starts(tmp_path: Path) -> None:
    job = run_job("compare", "--selectors", "uniform,best", *SMALL, "--out", str(tmp_path / "out"))
    assert job.returncode == 2
    assert "selection.selector" in job.stderr
    assert "best" in job.stderr
    assert not (tmp_path / "out").exists()
