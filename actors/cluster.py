"""Join the job's Ray cluster, or start a local one and end it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from actors.signals import handlers_kept
from actors.token import ensure_private_token
from gps_ray.base.errors import ResourceError, one_line
from gps_ray.config import ClusterConfig, TrainConfig
from gps_ray.loop.resources import check_resources

__all__ = ["check_local_resources", "cluster_for", "in_cluster"]

_ANSWER_DEADLINE_S = 4.0


def in_cluster(config: ClusterConfig) -> bool:
    """Is there a cluster to join: configured, or the one whose job this process is?"""
    return config.address is not None or "RAY_ADDRESS" in os.environ


def _start_local(config: ClusterConfig) -> Any:
    # Ray switches token authentication on for a local cluster (RAY_AUTH_MODE unset): whoever reaches its ports without
    # the token is turned away, and `ray get-auth-token` prints it for the dashboard.
    ensure_private_token()
    try:
        with handlers_kept():
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


def _join(address: str) -> Any:
    _check_answers(address)
    try:
        with handlers_kept():
            return ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"cluster.address: cannot join {address}: {one_line(error)}") from error


def _check_answers(address: str) -> None:
    """Ray waits for minutes for a head that is not there. Raises ResourceError within seconds instead."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ResourceError(f"cluster.address: expected host:port, ray://host:port or auto, got {address!r:.200}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_DEADLINE_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ResourceError(
            f"cluster.address: nobody answers at {address} ({one_line(error)}); start a head there, or set "
            "cluster.address to one that runs"
        ) from error


@contextmanager
def cluster_for(config: TrainConfig) -> Iterator[str]:
    """Connect for the length of a block; yields the dashboard's address ("" without one, or inside a cluster block).

    Raises ResourceError where the cluster cannot hold the run, before any actor is made.
    """
    cluster = config.cluster
    if ray.is_initialized():
        check_resources(config, ray.cluster_resources(), "the cluster")
        yield ""
        return
    if in_cluster(cluster):
        context = _join(cluster.address or os.environ.get("RAY_ADDRESS", "auto"))
        where = "the cluster"
    else:
        check_local_resources(config)
        context = _start_local(cluster)
        where = "the local cluster"
    try:
        check_resources(config, ray.cluster_resources(), where)
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def check_local_resources(config: TrainConfig) -> None:
    """Raise ResourceError where the run will start a Ray on this machine that cannot hold it."""
    if not in_cluster(config.cluster):
        num_cpus = float(config.cluster.local_num_cpus or os.cpu_count() or 1)
        check_resources(config, {"CPU": num_cpus, "GPU": _local_gpus()}, "this machine (cluster.local_num_cpus)")


def _local_gpus() -> float:
    import torch

    return float(torch.cuda.device_count())
