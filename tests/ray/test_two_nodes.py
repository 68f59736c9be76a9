"""The same run on two Ray nodes, a rollout worker on each, and in one process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from actors.cluster import cluster_for
from actors.training import prepare, run_training
from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig, load_config
from gps_ray.run.metrics import read_metrics
from gps_ray.run.outcomes import read_outcomes
from tests.processes import SMALL_RUN, run_small_in_process
from tests.reliability import record

pytestmark = pytest.mark.ray

SETTINGS = (
    *SMALL_RUN,
    "run.num_steps=4",
    "selection.selector=gps_fused",
    "rollout.num_workers=2",
    "rollout.num_cpus_per_worker=0.5",
    "learning.num_cpus_per_worker=0.5",
    "evaluation.every_steps=4",
    "checkpoint.every_steps=2",
)


@contextmanager
def _nodes(*num_cpus: int) -> Iterator[None]:
    """A cluster of nodes with so many CPUs each, all on this machine, and this process connected to it."""
    cluster = Cluster()
    try:
        for count in num_cpus:
            # Any dashboard port: of a taken one Ray complains even without a dashboard, and leaves its socket open.
            cluster.add_node(
                num_cpus=count, object_store_memory=100 << 20, include_dashboard=False, dashboard_port=None
            )
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


class WorkerNodes:
    """Notes, step by step, which nodes the live rollout workers are on."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def phase(self, name: str) -> None:
        pass

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        alive = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
        self.seen.append({a["Address"]["NodeID"] for a in alive if "rollout-worker" in a["Name"]})


def _results(directory: Path) -> tuple[str, list[dict[str, float]]]:
    outcomes = json.dumps(read_outcomes(directory / "outcomes").to_pylist())  # as text, where NaN equals NaN
    return outcomes, read_metrics(directory / "metrics.jsonl")


def test_a_run_that_fits_the_cluster_and_no_node_is_refused_at_once(tmp_path: Path) -> None:
    """Ray would wait for ever: 2 CPUs there are, and a worker of 1.5 has no place."""
    wide = ("rollout.num_workers=1", "rollout.num_cpus_per_worker=1.5")
    config = load_config(TrainConfig, None, (*SETTINGS, f"run.directory={tmp_path}", *wide))
    with _nodes(1, 1):
        began = time.monotonic()
        with (
            pytest.raises(ResourceError, match=r"needs 1\.5 CPU .* no node of the cluster has them \(2 x") as refused,
            cluster_for(config),
        ):
            pass
        record("a worker wider than any node", str(refused.value), 2, time.monotonic() - began)


@pytest.mark.timeout(900)
def test_two_nodes_select_and_learn_as_one_process(tmp_path: Path) -> None:
    worker_nodes = WorkerNodes()
    with _nodes(1, 1):
        config, data = prepare(load_config(TrainConfig, None, (*SETTINGS, f"run.directory={tmp_path / 'two'}")))
        run_training(config, data, sinks=(worker_nodes,))
    assert {len(nodes) for nodes in worker_nodes.seen} == {2}, "a rollout worker on each node"
    run_small_in_process((*SETTINGS, f"run.directory={tmp_path / 'one'}"))
    (one, one_metrics), (two, two_metrics) = _results(tmp_path / "one"), _results(tmp_path / "two")
    assert {row["step"] for row in json.loads(one)} == {1, 2, 3, 4}
    assert one == two
    for name in ("train/loss", "train/grad_norm", "val/pass@1", "predictor/pool_probe_spearman"):
        values = [[row.get(name) for row in rows] for rows in (one_metrics, two_metrics)]
        assert values[0] == values[1], name
        assert any(value is not None for value in values[0]), name
