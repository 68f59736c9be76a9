"""docs/tutorial_own_data.md, word by word: its files, its commands on a Ray of their own, and its job submission.

And the README's own data and model, on a head: with a tiny model, and two steps in the place of ten.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gps_ray.run.metrics import read_metrics
from tests.code_blocks import code_blocks
from tests.own_data import copy_project, make_own_model, user_environment
from tests.processes import ROOT, Head, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "tutorial_own_data.md").read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the tutorial's reader has: the project, and a model in the home folder (here: a tiny one)."""
    make_own_model(tmp_path / "home" / "models" / "smollm2")
    folder = tmp_path / "work"
    folder.mkdir()
    copy_project(folder)
    (python,) = [text for kind, text in BLOCKS if kind == "python"]
    (yaml,) = [text for kind, text in BLOCKS if kind == "yaml"]
    (folder / "my_sums.py").write_text(python)
    (folder / "my_run.yaml").write_text(yaml)
    assert len(python.strip().splitlines()) <= 20
    return folder


def _bash(folder: Path, commands: str, head: Head | None = None) -> subprocess.CompletedProcess[str]:
    environment = user_environment(head) | {"HOME": str(folder.parent / "home")}
    return subprocess.run(
        ["bash", "-ec", commands], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )


def test_the_tutorial_as_it_stands(folder: Path) -> None:
    *local, submit = [text for kind, text in BLOCKS if kind == "bash"]
    assert len(local) == 2
    assert submit.startswith("ray job submit")
    first, second = (_bash(folder, commands) for commands in local)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "my_sums:reward" in first.stdout
    assert second.returncode == 0, second.stdout + second.stderr
    assert read_metrics(folder / "runs" / "my_sums" / "metrics.jsonl")[-1]["step"] == 2
    assert (folder / "runs" / "my_sums" / "report.html").exists()


def test_the_tutorials_submission(folder: Path, head: Head) -> None:
    commands = [text for kind, text in BLOCKS if kind == "bash"]
    written = _bash(folder, commands[0].splitlines()[0])
    assert written.returncode == 0, written.stderr
    # The reader's head has its dashboard elsewhere, and was started with the environment active.
    submit = (
        commands[-1].replace("http://127.0.0.1:8265", head.dashboard).replace(" python -m", f" {sys.executable} -m")
    )

    def submitted() -> subprocess.CompletedProcess[str] | None:
        job = _bash(folder, submit, head)
        # The head takes jobs a while after its dashboard answers.
        return None if "No available agent" in job.stdout + job.stderr else job

    job = wait_for("the job agent", submitted, 900)
    assert job.returncode == 0, job.stdout + job.stderr
    assert read_metrics(folder.parent / "home" / "runs" / "my_sums" / "metrics.jsonl")[-1]["step"] == 2


def test_the_readmes_own_data_and_model(tmp_path: Path, head: Head) -> None:
    data, verifier, run = [
        block.text
        for block in code_blocks(ROOT / "README.md")
        if block.text.startswith(("import pyarrow", "def reward", "python -m jobs.train"))
    ]
    make_own_model(tmp_path / "work" / "models" / "smollm2")
    copy_project(tmp_path / "work")
    (tmp_path / "work" / "my_sums.py").write_text(verifier)
    (tmp_path / "work" / "make_data.py").write_text(data)
    assert "run.num_steps=10" in run
    run = run.partition("  #")[0].replace("run.num_steps=10", "run.num_steps=2")
    commands = f"python make_data.py\n{run}"
    for more in ("--dry-run", "", "--resume"):
        done = _bash(tmp_path / "work", f"{commands} {more}", head)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [row["step"] for row in read_metrics(tmp_path / "work" / "runs" / "sums" / "metrics.jsonl")] == [0, 1, 2]
    assert (tmp_path / "work" / "runs" / "sums" / "report.html").exists()
