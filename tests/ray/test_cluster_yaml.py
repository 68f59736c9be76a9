"""cluster.yaml: Ray's own schema, the project's own installation, and a head started as it says."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import ROOT, ray_head, wait_for

pytestmark = pytest.mark.ray


def _config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return config


def test_cluster_yaml_is_valid_for_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(_config())
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_every_node_installs_the_project_with_its_pins() -> None:
    """What is declared is all that is imported: tests/unit/test_installation.py."""
    config = _config()
    mounted = {remote.removeprefix("~/gps-ray/"): local for remote, local in config["file_mounts"].items()}
    for name in ("pyproject.toml", "README.md", "LICENSE", "deploy", "gps_ray"):
        assert mounted[name] == name
        assert (ROOT / name).exists()
    install = config["setup_commands"][-1]
    assert install.startswith("cd ~/gps-ray && ~/gps-ray-env/bin/python -m pip install ")
    assert "-c deploy/constraints.txt -c deploy/constraints-gpu.txt -e '.[gpu]'" in install
    # A package named here by hand would be a second list of pins.
    assert "==" not in " ".join(config["setup_commands"])


def test_a_head_started_so_runs_jobs_in_the_environment() -> None:
    """With PATH and HOME as on a bare node: a job's plain `python` is the environment's, and the learner imports."""
    command = _config()["head_start_ray_commands"][-1]
    # Ray's own launcher writes that file; the port is a free one here.
    for word in ("--autoscaling-config=~/ray_bootstrap_config.yaml", "--port=6379"):
        assert word in command
        command = command.replace(word, "")
    with tempfile.TemporaryDirectory(prefix="gps", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        (home / "gps-ray-env").symlink_to(Path(sys.executable).parents[1])
        bare = {"HOME": directory, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        with ray_head(home, start=("bash", "-c", f'{command} "$@"', "ray"), environment=bare) as head:
            code = "import gps_ray.learning.learner, sys; print(sys.executable)"
            submit = ("job", "submit", f"--address={head.dashboard}", "--working-dir=.", "--", "python", "-c", code)
            submitted = wait_for("the job agent", lambda: _unless_too_early(head.ray(*submit)))
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert f"{home}/gps-ray-env/bin/python" in submitted.stdout


def _unless_too_early(submitted: Any) -> Any:
    """None while the head's dashboard answers and its node's agent does not yet."""
    return None if "No available agent" in submitted.stdout + submitted.stderr else submitted
