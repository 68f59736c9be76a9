"""deploy/ray_node.sh, which Slurm and the page of two hosts use: a head and a worker on this machine."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.own_data import user_environment
from tests.processes import ROOT, free_port, kill_tree, ray_head

pytestmark = pytest.mark.ray

SCRIPT = "deploy/ray_node.sh"


def test_a_worker_joins_its_head() -> None:
    with tempfile.TemporaryDirectory(prefix="gps", ignore_cleanup_errors=True) as directory:
        environment = user_environment() | {"RAY_TMPDIR": directory, "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
        with ray_head(Path(directory), 1, start=("bash", SCRIPT, "head"), environment=environment) as head:
            # On a second host these three are their own anyway.
            options = [
                "--num-cpus=1",
                f"--object-store-memory={100 << 20}",
                f"--dashboard-agent-listen-port={free_port()}",
            ]
            with (Path(directory) / "worker.log").open("wb") as log:
                worker = subprocess.Popen(
                    ["bash", SCRIPT, "worker", head.address, *options],
                    cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
            try:
                waited = subprocess.run(
                    ["bash", SCRIPT, "wait", head.address, "2"],
                    cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400,
                )  # fmt: skip
            finally:
                kill_tree(worker)
    assert waited.returncode == 0, waited.stderr
    assert waited.stdout.splitlines()[-1] == "2 nodes"
