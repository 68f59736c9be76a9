"""How many runs a cluster holds."""

from __future__ import annotations

import pytest

from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.resources import check_resources, num_runs_at_once


def config(*overrides: str) -> TrainConfig:
    base = ("rollout.num_workers=2", "rollout.num_cpus_per_worker=0.5", "learning.num_cpus_per_worker=1")
    return load_config(TrainConfig, None, (*base, *overrides))


@pytest.mark.parametrize(
    ("available", "expected"),
    [({"CPU": 2.0}, 1), ({"CPU": 3.9}, 1), ({"CPU": 8.0}, 4), ({"CPU": 1.0}, 1), ({}, 1)],
)
def test_as_many_runs_as_fit_but_at_least_one(available: dict[str, float], expected: int) -> None:
    assert num_runs_at_once(config(), available) == expected


def test_the_scarcer_kind_decides() -> None:
    with_gpus = config("rollout.num_gpus_per_worker=1", "learning.num_gpus_per_worker=1")
    assert num_runs_at_once(with_gpus, {"CPU": 64.0, "GPU": 8.0}) == 2
    # A third of a CPU three times is one CPU, whatever the rounding.
    thirds = config("rollout.num_cpus_per_worker=0.1", "learning.num_cpus_per_worker=0.1")
    assert num_runs_at_once(thirds, {"CPU": 0.9}) == 3


def test_too_small_a_cluster_is_refused_with_the_key() -> None:
    with pytest.raises(ResourceError, match=r"rollout\.num_workers.*needs 2 CPUs"):
        check_resources(config(), {"CPU": 1.0}, "this machine")
