"""One torch thread everywhere: results depend on the number, and two busy pools of threads on two cores crawl.

One Ray head per test process serves all its tests: to start one takes as long as many a test.

The garbage collector rests while the tests are collected: importing torch makes objects by the million, all of which
stay, and to look through them again and again is a third of the time.
"""

from __future__ import annotations

import gc
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.processes import Head

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Ray reads these once per process, so all clusters that this one joins have the same token.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16))
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported is looked at no more, in no test either
    gc.enable()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, or of what ``mount -o remount,size=`` makes of it."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A Ray head of two CPUs, for jobs that join it and for the ``cluster`` of this process."""
    from tests.processes import ray_head  # the unit layer imports nothing of Ray

    with (
        tempfile.TemporaryDirectory(prefix="gps", ignore_cleanup_errors=True) as directory,
        ray_head(Path(directory)) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def cluster(head: Head) -> Iterator[None]:
    """This process on the head, joined as the jobs join theirs."""
    from actors.cluster import cluster_for
    from gps_ray.config import TrainConfig, load_config

    with cluster_for(load_config(TrainConfig, None, (f"cluster.address={head.address}",))):
        yield
