"""One torch thread everywhere: results depend on the number, and two busy pools of threads on two cores crawl."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray cluster of two CPUs, started as the jobs start theirs."""
    from actors.cluster import cluster_for  # the unit layer imports no Ray
    from gps_ray.config import TrainConfig, load_config

    with cluster_for(load_config(TrainConfig, None, ("cluster.local_num_cpus=2", "cluster.local_dashboard=false"))):
        yield
