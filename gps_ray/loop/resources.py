"""What a run asks of a cluster, said before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig

__all__ = ["ResourceNeed", "check_nodes", "check_resources", "num_runs_at_once", "resource_needs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceNeed:
    """``count`` processes of one kind with ``num_cpus`` and ``num_gpus`` each; ``key`` sets the count or the share."""

    what: str
    key: str
    count: int
    num_cpus: float
    num_gpus: float


def resource_needs(config: TrainConfig) -> list[ResourceNeed]:
    """Selector and learner actor mostly wait or work while others wait: they reserve nothing."""
    return [
        ResourceNeed(
            what="rollout worker",
            key="rollout.num_workers",
            count=config.rollout.num_workers,
            num_cpus=config.rollout.num_cpus_per_worker * config.rollout.num_ranks_per_worker,
            num_gpus=config.rollout.num_gpus_per_worker * config.rollout.num_ranks_per_worker,
        ),
        ResourceNeed(
            what="train worker",
            key="learning.num_workers",
            count=config.learning.num_workers,
            num_cpus=config.learning.num_cpus_per_worker,
            num_gpus=config.learning.num_gpus_per_worker,
        ),
    ]


def num_runs_at_once(config: TrainConfig, available: Mapping[str, float]) -> int:
    """How many runs of this config a cluster holds beside each other, at least one. ``available`` as Ray says it."""
    needs = resource_needs(config)
    fitting = [
        available.get(kind, 0.0) / needed
        for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus"))
        if (needed := sum(need.count * float(getattr(need, name)) for need in needs)) > 0
    ]
    return max(int(min(fitting, default=1.0) + 1e-9), 1)


def check_nodes(config: TrainConfig, nodes: Sequence[Mapping[str, float]], where: str) -> None:
    """Raise ResourceError where the workers fit into the cluster as a whole and into no distribution over its nodes
    (each as Ray says it): a worker lives on one node. GPUs are counted as one amount per node."""
    rollout, train = resource_needs(config)
    for need in (rollout, train):
        if need.count and not any(_room(node, need, []) for node in nodes):
            raise ResourceError(
                f"{need.key}: a {need.what} needs {need.num_cpus:g} CPU and {need.num_gpus:g} GPU on one node, no node "
                f"of {where} has them ({_shown(nodes)}); ask for less per worker, or add a node"
            )
    # Most rollout workers beside each number of train workers, over more and more nodes.
    most: list[int] = [0] + [-1] * train.count
    for node in nodes:
        beside = [_room(node, rollout, [train] * num) for num in range(_room(node, train, []) + 1)]
        for total in range(train.count, -1, -1):
            sums = [
                most[total - num] + extra for num, extra in enumerate(beside[: total + 1]) if most[total - num] >= 0
            ]
            most[total] = max(sums, default=-1)
    if most[train.count] < rollout.count:
        raise ResourceError(
            f"rollout.num_workers: {_units(rollout)} and {_units(train)} fit into {where} as a whole, but into no "
            f"distribution over its nodes ({_shown(nodes)}); ask for fewer or smaller workers, or add a node"
        )


def _room(node: Mapping[str, float], need: ResourceNeed, beside: Sequence[ResourceNeed]) -> int:
    """How many such workers the node holds beside others, at most as many as are wanted; -1: not even the others."""
    room = need.count
    for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        left = node.get(kind, 0.0) - sum(float(getattr(other, name)) for other in beside) + 1e-9
        if left < 0:
            return -1
        if getattr(need, name):
            room = min(room, int(left / float(getattr(need, name))))
    return room


def _units(need: ResourceNeed) -> str:
    gpus = f", {need.num_gpus:g} GPU" if need.num_gpus else ""
    return f"{need.count} {need.what}s x ({need.num_cpus:g} CPU{gpus})"


def _shown(nodes: Sequence[Mapping[str, float]]) -> str:
    kinds = [f"{node.get('CPU', 0.0):g} CPU, {node.get('GPU', 0.0):g} GPU" for node in nodes]
    return "; ".join(f"{kinds.count(kind)} x ({kind})" for kind in dict.fromkeys(kinds)) or "no node"


def check_resources(config: TrainConfig, available: Mapping[str, float], where: str) -> None:
    """Raise ResourceError instead of letting actors wait for ever. ``available`` as Ray says it: {"CPU": 2.0, ...}."""
    needs = resource_needs(config)
    for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        needed = sum(need.count * float(getattr(need, name)) for need in needs)
        if needed > available.get(kind, 0.0) + 1e-9:
            parts = " + ".join(f"{n.count} {n.what}s x {getattr(n, name):g}" for n in needs if getattr(n, name))
            raise ResourceError(
                f"{needs[0].key}: the run needs {needed:g} {kind}s ({parts}), {where} has "
                f"{available.get(kind, 0.0):g}; lower {needs[0].key} or rollout.{name}_per_worker"
            )
