"""examples/: each as its user starts it, with a model that is tiny."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gps_ray.config import TrainConfig, load_config
from gps_ray.run.metrics import read_metrics
from tests.own_data import make_own_model
from tests.processes import ROOT, Head

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def _run(example: str, head: Head, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """From the project's folder, but for what an example writes: that goes to ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", f"examples.{example}", *arguments, f"run.directory={folder / 'run'}"],
        cwd=folder, env=head.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=560,
    )  # fmt: skip


def test_own_task_trains_on_its_own_data(head: Head, tmp_path: Path) -> None:
    model = make_own_model(tmp_path / "model")
    done = _run("own_task", head, tmp_path, "--model", str(model), "run.num_steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2]
    config = load_config(TrainConfig, tmp_path / "run" / "config.yaml")
    assert config.data.task == "examples.own_task:reward"
    assert (tmp_path / "run" / "report.html").exists()


def test_own_selector_chooses_in_a_run(head: Head, tmp_path: Path) -> None:
    done = _run("own_selector", head, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1:3] == ["  What is 1 + 1 ?", "  What is 8 + 9 ?"]
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2]
