"""Join the job's Ray cluster, or start a local one and end it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
import ray._private.worker
from ray.exceptions import RayError, RayTaskError

from actors.lost_head import ask_head, bounded, head_watched
from actors.signals import handlers_kept
from actors.token import ensure_private_token
from gps_ray.base.errors import LostError, ResourceError, one_line
from gps_ray.config import ClusterConfig, TrainConfig
from gps_ray.loop.resources import check_nodes, check_resources

__all__ = ["check_local_resources", "check_placement", "cluster_for", "in_cluster"]


def in_cluster(config: ClusterConfig) -> bool:
    """Is there a cluster to join: configured, or the one whose job this process is?"""
    return config.address is not None or "RAY_ADDRESS" in os.environ


def _start_local(config: ClusterConfig) -> Any:
    # Ray switches token authentication on for a local cluster (RAY_AUTH_MODE unset): whoever reaches its ports without
    # the token is turned away, and `ray get-auth-token` prints it for the dashboard.
    ensure_private_token()
    try:
        with handlers_kept(), bounded(config.connect_deadline_s, "cluster.address: no local Ray came up"):
            return ray.init(
                address="local",
                num_cpus=config.local_num_cpus or os.cpu_count(),
                object_store_memory=config.object_store_memory_bytes,
                include_dashboard=config.local_dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level="error",
            )
    except Exception as error:  # Ray's own is no narrower
        if "timed out during startup" not in str(error):
            raise
        raise ResourceError(
            "cluster.address: expected a local Ray within the 30 s that Ray gives its node, none came up; wait until "
            "this machine has less to do, or set cluster.address to a Ray that runs already"
        ) from error


def _join(address: str, deadline_s: float) -> Any:
    _check_answers(address)
    try:
        with handlers_kept(), bounded(deadline_s, f"cluster.address: the Ray at {address} did not let this job join"):
            return ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"cluster.address: cannot join {address}: {one_line(error)}") from error


def _check_answers(address: str) -> None:
    """Ray waits for minutes for a head that is not there. Raises ResourceError within seconds instead."""
    if address == "auto":
        return
    _, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ResourceError(f"cluster.address: expected host:port, ray://host:port or auto, got {address!r:.200}")
    reason = ask_head(address)
    if reason:
        raise ResourceError(
            f"cluster.address: nobody answers at {address} ({reason}); start a head there, or set cluster.address to "
            "one that runs"
        )


@contextmanager
def cluster_for(config: TrainConfig) -> Iterator[str]:
    """Connect for the length of a block; yields the dashboard's address ("" without one, or inside a cluster block).

    Raises ResourceError where the cluster cannot hold the run, before any actor is made.
    """
    cluster = config.cluster
    if ray.is_initialized():
        _check_cluster(config, "the cluster")
        yield ""
        return
    if in_cluster(cluster):
        context = _join(cluster.address or os.environ.get("RAY_ADDRESS", "auto"), cluster.connect_deadline_s)
        where = "the cluster"
    else:
        check_local_resources(config)
        context = _start_local(cluster)
        where = "the local cluster"
    try:
        with _head_watched(cluster), _one_line_ends():
            _check_cluster(config, where)
            yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def _check_cluster(config: TrainConfig, where: str) -> None:
    check_resources(config, ray.cluster_resources(), where)
    check_nodes(config, [node["Resources"] for node in ray.nodes() if node["Alive"]], where)


def _head_watched(config: ClusterConfig) -> Any:
    node = ray._private.worker._global_node  # a Ray client (ray://) has none
    if node is None:
        return nullcontext()
    return head_watched(node.gcs_address, node.raylet_socket_name, config.head_deadline_s)


@contextmanager
def _one_line_ends() -> Iterator[None]:
    """What Ray raises when it loses a part of itself as one line, and the first lines of what it tells meanwhile: a
    lost raylet is 45 lines of its state. Errors of our own code keep their traceback."""
    shown = ray._private.worker.print_to_stdstream

    def first_lines(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        lines = [text.partition("\n")[0][:200] for text in data["lines"]]
        shown({**data, "lines": lines}, ignore_prefix=ignore_prefix)

    ray._private.worker.print_to_stdstream = first_lines
    try:
        yield
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(cause, RayError):
            raise
        raise LostError(
            f"Ray lost a part of the run ({type(cause).__name__}: {one_line(cause)}); --resume goes on from the last "
            "checkpoint"
        ) from error
    finally:
        ray._private.worker.print_to_stdstream = shown


def check_placement(config: TrainConfig) -> None:
    """For a dry run: raise ResourceError where the cluster that the run would join, or start, cannot hold it. Joins one
    that is there for the moment."""
    if in_cluster(config.cluster):
        with cluster_for(config):
            return
    check_local_resources(config)


def check_local_resources(config: TrainConfig) -> None:
    """Raise ResourceError where the run will start a Ray on this machine that cannot hold it."""
    if not in_cluster(config.cluster):
        num_cpus = float(config.cluster.local_num_cpus or os.cpu_count() or 1)
        check_resources(config, {"CPU": num_cpus, "GPU": _local_gpus()}, "this machine (cluster.local_num_cpus)")


def _local_gpus() -> float:
    import torch

    return float(torch.cuda.device_count())
