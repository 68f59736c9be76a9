"""The import rules bite: what the contracts forbid fails the check that `make check` runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _lint(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("gps_ray", "actors", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("gps_ray/loop/training.py", "import ray", "no ray"),
        ("gps_ray/base/types.py", "import actors.cluster", "jobs -> actors -> gps_ray"),
        ("gps_ray/base/types.py", "import gps_ray.config", "the rooms above it"),
        ("gps_ray/learning/rewards.py", "import gps_ray.selection.registry", "the rooms above it"),
        ("gps_ray/predictor/interface.py", "import gps_ray.selection.interface", "the rooms above it"),
        ("gps_ray/loop/training.py", "import gps_ray.study.paired", "the rooms above it"),
        ("gps_ray/rollout/chunk.py", "import vllm", "vLLM only behind the engine"),
    ],
)
def test_a_planted_import_breaks_its_contract(checkout: Path, module: str, planted: str, contract: str) -> None:
    file = checkout / module
    file.write_text(file.read_text() + f"\n{planted}\n")
    done = _lint(checkout)
    assert done.returncode != 0
    assert any(contract in line and "BROKEN" in line for line in done.stdout.splitlines()), done.stdout


def test_without_it_all_contracts_hold(checkout: Path) -> None:
    done = _lint(checkout)
    assert done.returncode == 0, done.stdout


def test_the_map_names_every_room_and_every_room_says_what_it_is() -> None:
    """ARCHITECTURE.md's map, the folder and the contract of the layers know the same rooms."""
    rooms = {path.parent.name for path in (ROOT / "gps_ray").glob("*/__init__.py")}
    loose = {path.name for path in (ROOT / "gps_ray").glob("*.py")} - {"__init__.py"}
    section = (ROOT / "ARCHITECTURE.md").read_text().split("## The map")[1].split("\n## ")[0]
    assert set(re.findall(r"^ {6}(\w+)/ ", section, re.MULTILINE)) == rooms
    assert len(rooms) + len(loose) <= 14
    for room in rooms:
        assert (ROOT / "gps_ray" / room / "__init__.py").read_text().startswith('"""'), room
