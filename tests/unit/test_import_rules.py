"""The import rules bite: what the contracts forbid fails the check that `make check` runs."""

from __future__ import annotations

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
        ("gps_ray/loop.py", "import ray", "no ray"),
        ("gps_ray/types.py", "import actors.cluster", "jobs -> actors -> gps_ray"),
        ("gps_ray/learning/rewards.py", "import gps_ray.selection.registry", "do not know each other"),
        ("gps_ray/predictor/interface.py", "import gps_ray.selection.interface", "does not know who uses it"),
        ("gps_ray/rollout/chunk.py", "import vllm", "vLLM only behind the engine seam"),
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
