"""What a run asks of a cluster, said before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig

__all__ = ["ResourceNeed", "check_resources", "num_runs_at_once", "resource_needs"]


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
