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


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkout")
    for name in ("gps_ray", "actors", "jobs"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


PLANTED = [
    ("gps_ray/loop/training.py", "ray", "no ray"),
    ("gps_ray/base/types.py", "actors.cluster", "jobs -> actors -> gps_ray"),
    ("gps_ray/base/types.py", "gps_ray.config", "the rooms above it"),
    ("gps_ray/learning/rewards.py", "gps_ray.selection.registry", "the rooms above it"),
    ("gps_ray/predictor/interface.py", "gps_ray.selection.interface", "the rooms above it"),
    ("gps_ray/loop/training.py", "gps_ray.study.paired", "the rooms above it"),
    ("gps_ray/rollout/chunk.py", "vllm", "vLLM only behind the engine"),
]


@pytest.fixture(scope="module")
def said(checkout: Path) -> str:
    """What the check says of the checkout before and, after a line of =, with all of ``PLANTED``."""
    before = _lint(checkout)
    assert before.returncode == 0, before.stdout
    for module, name, _ in PLANTED:
        with (checkout / module).open("a") as file:
            file.write(f"\nimport {name}\n")
    after = _lint(checkout)
    assert after.returncode != 0
    return after.stdout


@pytest.mark.parametrize(("module", "name", "contract"), PLANTED)
def test_a_planted_import_breaks_its_contract(said: str, module: str, name: str, contract: str) -> None:
    print(said)
    assert any(contract in line and "BROKEN" in line for line in said.splitlines()), said
    planted = f"{module.removesuffix('.py').replace('/', '.')} -> {name} "
    assert planted in said, said


def test_the_map_names_every_room_and_every_room_says_what_it_is() -> None:
    """ARCHITECTURE.md's map, the folder and the contract of the layers know the same rooms."""
    rooms = {path.parent.name for path in (ROOT / "gps_ray").glob("*/__init__.py")}
    loose = {path.name for path in (ROOT / "gps_ray").glob("*.py")} - {"__init__.py"}
    section = (ROOT / "ARCHITECTURE.md").read_text().split("## The map")[1].split("\n## ")[0]
    assert set(re.findall(r"^ {6}(\w+)/ ", section, re.MULTILINE)) == rooms
    assert len(rooms) + len(loose) <= 14
    for room in rooms:
        assert (ROOT / "gps_ray" / room / "__init__.py").read_text().startswith('"""'), room
