"""How many runs a cluster holds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.resources import check_nodes, check_resources, num_runs_at_once


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


def _nodes_hold(nodes: list[tuple[float, float]], *overrides: str) -> str:
    """What is said of a run on nodes of (CPUs, GPUs); "" where they hold it."""
    try:
        check_nodes(
            load_config(TrainConfig, None, overrides),
            [{"CPU": cpus, "GPU": gpus} for cpus, gpus in nodes],
            "the cluster",
        )
    except ResourceError as error:
        return str(error)
    return ""


def test_workers_have_to_fit_on_single_nodes() -> None:
    shares = ("rollout.num_workers=3", "rollout.num_cpus_per_worker=2", "learning.num_cpus_per_worker=1")
    assert _nodes_hold([(7, 0)], *shares) == ""
    assert _nodes_hold([(4, 0), (3, 0)], *shares) == ""
    # As many CPUs, on nodes that hold one rollout worker each.
    said = _nodes_hold([(3, 0), (3, 0), (1, 0)], *shares)
    assert said.startswith(
        "rollout.num_workers: 3 rollout workers x (2 CPU) and 1 train workers x (1 CPU) fit into the"
    )
    assert "no distribution over its nodes (2 x (3 CPU, 0 GPU); 1 x (1 CPU, 0 GPU))" in said
    said = _nodes_hold([(1, 0)] * 8, *shares)
    assert said.startswith("rollout.num_workers: a rollout worker needs 2 CPU and 0 GPU on one node, no node of")
    said = _nodes_hold([(8, 1)], *shares, "learning.num_gpus_per_worker=2")
    assert said.startswith("learning.num_workers: a train worker needs 1 CPU and 2 GPU on one node, no node of")


def test_a_distribution_is_found_where_there_is_one() -> None:
    """Against trying all of them."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        nodes = [(int(cpus), 0.0) for cpus in rng.integers(1, 6, rng.integers(1, 4))]
        rollout, train = (int(x) for x in rng.integers(1, 4, 2))
        num_rollout, num_train = (int(x) for x in rng.integers(1, 4, 2))
        workers = [rollout] * num_rollout + [train] * num_train
        fits = any(
            all(
                sum(w for w, at in zip(workers, places, strict=True) if at == n) <= cpus
                for n, (cpus, _) in enumerate(nodes)
            )
            for places in product(range(len(nodes)), repeat=len(workers))
        )
        said = _nodes_hold(
            nodes,
            f"rollout.num_workers={num_rollout}",
            f"rollout.num_cpus_per_worker={rollout}",
            f"learning.num_workers={num_train}",
            f"learning.num_cpus_per_worker={train}",
        )
        assert (said == "") == fits, (nodes, workers)
        seen.add(fits)
    assert seen == {True, False}
