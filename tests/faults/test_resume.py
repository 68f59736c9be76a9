"""SIGKILL of the whole job, on real components and two Ray nodes: resumed it ends bit for bit like one that was never
killed, and that ran in one process without Ray."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from actors.cluster import cluster_for
from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig, load_config
from gps_ray.run.metrics import read_metrics
from gps_ray.run.outcomes import read_outcomes
from jobs.train import main
from tests.processes import SMALL_RUN, Head, end, join_environment, run_small_in_process, start_job, wait_for
from tests.reliability import record

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

RUN = (
    *SMALL_RUN,
    "run.num_steps=9",
    "checkpoint.every_steps=3",
    "evaluation.every_steps=4",
    "rollout.num_workers=2",
    "rollout.num_cpus_per_worker=0.5",
    "learning.num_cpus_per_worker=0.5",
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes with a CPU each, both on this machine, that this process is connected to."""
    cluster = Cluster()
    try:
        for _ in range(2):
            # Any dashboard port: of a taken one Ray complains even without a dashboard, and leaves its socket open.
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, dashboard_port=None)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def _arguments(tmp_path: Path, name: str) -> tuple[str, ...]:
    return (*RUN, f"run.directory={tmp_path / name}")


def _steps(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return read_metrics(file) if file.exists() else []


def _nodes_of_rollout_workers(num_jobs: int) -> list[int]:
    """On how many nodes they were, job by job."""
    nodes: dict[str, set[str]] = {}
    for actor in actors().values():
        if "rollout-worker" in actor["Name"]:
            nodes.setdefault(actor["JobID"], set()).add(actor["Address"]["NodeID"])
    assert len(nodes) == num_jobs
    return [len(of_job) for of_job in nodes.values()]


def test_killed_on_two_nodes_and_resumed_it_ends_as_in_one_process(address: str, tmp_path: Path) -> None:
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    arguments = _arguments(tmp_path, "killed")
    process = start_job("train", *arguments, log=log, environment=join_environment(address))
    try:
        wait_for(
            "step 7", lambda: process.poll() is not None or ((steps := _steps(killed)) and steps[-1]["step"] >= 7), 400
        )
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        end(process, signal.SIGKILL)
    assert not (killed / "final_model").exists()
    assert main([*arguments, "--resume"]) == 0
    assert _nodes_of_rollout_workers(num_jobs=2) == [2, 2]

    run_small_in_process(_arguments(tmp_path, "whole"))
    assert (whole / "final_model" / "model.safetensors").read_bytes() == (
        killed / "final_model" / "model.safetensors"
    ).read_bytes()
    for name in ("train/loss", "train/grad_norm", "val/pass@1", "predictor/pool_probe_spearman"):
        values = [[row.get(name) for row in _steps(run)] for run in (whole, killed)]
        assert values[0] == values[1], name
        assert len(values[0]) == 10
        assert any(value is not None for value in values[0]), name
    files = [sorted(p.name for p in (run / "outcomes").glob("*")) for run in (whole, killed)]
    assert files[0] == files[1]
    assert read_outcomes(whole / "outcomes")["step"].unique().to_pylist() == list(range(1, 10))
    for name in files[0]:
        # Predictions, selections and rewards of every group, as bytes.
        assert (whole / "outcomes" / name).read_bytes() == (killed / "outcomes" / name).read_bytes(), name
    # What was done after the last manifest was rolled back whole, not mixed in.
    assert list((killed / "discarded" / "outcomes").glob("*"))


@pytest.mark.usefixtures("address")
def test_a_run_that_fits_the_cluster_and_no_node_is_refused_at_once(tmp_path: Path) -> None:
    """Ray would wait for ever: 2 CPUs there are, and a worker of 1.5 has no place."""
    wide = ("rollout.num_workers=1", "rollout.num_cpus_per_worker=1.5")
    config = load_config(TrainConfig, None, (*_arguments(tmp_path, "wide"), *wide))
    began = time.monotonic()
    with (
        pytest.raises(ResourceError, match=r"needs 1\.5 CPU .* no node of the cluster has them \(2 x") as refused,
        cluster_for(config),
    ):
        pass
    record("a worker wider than any node", str(refused.value), 2, time.monotonic() - began)


@pytest.mark.slow
def test_a_run_goes_on_with_other_micro_batches_and_workers_and_says_so(head: Head, tmp_path: Path) -> None:
    log = tmp_path / "run.log"

    def finish(*settings: str) -> None:
        process = start_job("train", *_arguments(tmp_path, "run"), *settings, log=log, head=head)
        try:
            assert process.wait(280) == 0, log.read_text()[-3000:]
        finally:
            end(process)

    few = ("run.num_steps=2", "checkpoint.every_steps=2", "evaluation.num_probe_prompts=0")
    finish(*few)
    file = tmp_path / "run" / "notes.jsonl"
    assert not file.exists()
    finish(*few, "run.num_steps=3", "learning.microbatch_tokens=512", "rollout.num_workers=1", "--resume")
    (note,) = (json.loads(line) for line in file.read_text().splitlines())
    assert note["step"] == 2
    assert note["note"].startswith("resume: learning.microbatch_tokens 16384 -> 512: the run goes on, no longer equal")
    assert note["note"] in log.read_text()
    assert [row["step"] for row in _steps(tmp_path / "run")] == [0, 1, 2, 3]
