"""A newcomer's first hour: the README and the tutorials, block by block, in a fresh clone with its own environment.

What is committed is what is walked. It installs packages, the model's among them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from gps_ray.run.metrics import read_metrics
from tests.code_blocks import code_blocks
from tests.processes import ROOT
from tests.unit.test_code_blocks import GIVEN, language

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(4000)]

# Files that a page tells its reader to write without saying so in a comment.
NAMED = {"def reward": "my_sums.py", "import random, re": "my_sums.py", "data: {task:": "my_run.yaml"}


def _script(page: str, instead: Mapping[str, str]) -> str:
    """The page's blocks in their order as one shell session; of each pair of ``instead`` the page must have the first,
    and the session has the second."""
    lines, python = [], GIVEN
    for block in code_blocks(ROOT / page):
        text, kind = block.text, language(block)
        if {"needs", "tested by", "shows"} & set(block.marks):
            continue
        file = block.marks.get("file") or next((name for start, name in NAMED.items() if text.startswith(start)), None)
        if file is not None:
            lines.append(f"cat > {file} <<'END'\n{text}\nEND")
        elif kind == "python":
            python += f"{text}\n"  # a block goes on from those before it
            lines.append(f"python - <<'END'\n{python}END")
        elif kind == "shell":
            lines.append(text)
    script = "\n".join(lines)
    for old, new in instead.items():
        assert old in script, f"{page} has no {old!r} any more"
        script = script.replace(old, new)
    return script


def _walk(clone: Path, page: str, instead: Mapping[str, str]) -> str:
    """What the session printed. It begins with nothing but what any machine has."""
    home = clone.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "PYTEST", "OMP_", "MKL_")) and name not in ("VIRTUAL_ENV", "PYTHONPATH")
    }
    folders = [folder for folder in environment["PATH"].split(os.pathsep) if Path(folder).parent != ROOT / ".venv"]
    environment |= {"HOME": str(home), "PATH": os.pathsep.join(folders)}
    activate = ". .venv/bin/activate\n" if (clone / ".venv").exists() else ""
    done = subprocess.run(
        ["bash", "-ec", activate + _script(page, instead)],
        cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def _num_steps(run: Path) -> int:
    assert (run / "report.html").exists()
    return int(read_metrics(run / "metrics.jsonl")[-1]["step"])


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The clone after the README, and what that printed."""
    clone = tmp_path_factory.mktemp("walk") / "gps-ray"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    return clone, _walk(clone, "README.md", {"git clone <this repository> && cd gps-ray\n": ""})


def test_the_readme(walked: tuple[Path, str]) -> None:
    clone, printed = walked
    assert "useful groups" in printed
    assert "report: runs/demo/report.html" in printed
    assert _num_steps(clone / "runs" / "sums") == 10


def test_own_data(walked: tuple[Path, str]) -> None:
    clone, _ = walked
    _walk(clone, "docs/tutorial_own_data.md", {"$HOME/models/smollm2": "models/smollm2"})
    assert _num_steps(clone / "runs" / "my_sums") == 2


def test_own_selector(walked: tuple[Path, str]) -> None:
    """Its comparison over five seeds is only planned."""
    printed = _walk(walked[0], "docs/tutorial_own_selector.md", {"--out runs/mine": "--out runs/mine --dry-run"})
    assert "my_selector:ShortestFirst x seeds" in printed


def test_allocation(walked: tuple[Path, str]) -> None:
    """Of the demo's run, and of a small table of outcomes."""
    clone, _ = walked
    table = (
        "python -c \"import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.table({'prompt': "
        "[f'What is {a} + {a} ?' for a in range(400)], 'successes': [a % 17 for a in range(400)], "
        "'rollouts': [16] * 400}), 'outcomes.parquet')\"\n"
    )
    static = "gps-ray allocate --static FILE.parquet"
    _walk(
        clone,
        "docs/tutorial_allocation.md",
        {
            "runs/compare/gps_fused/seed_0": "runs/demo/gps/seed_0",
            static: table + static.replace("FILE", "outcomes"),
        },
    )
    assert (clone / "runs" / "allocate" / "allocate.html").exists()
