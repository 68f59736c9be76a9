"""Where a rollout worker whose engine has several ranks lives."""

from __future__ import annotations

from typing import Any

from ray.util import placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gps_ray.config import RolloutConfig
from gps_ray.weights.transports import load_transport

__all__ = ["rank_group", "worker_options"]


def rank_group(config: RolloutConfig) -> PlacementGroup | None:
    """One bundle per rank, all on one node: tensor parallelism talks at every layer, and the ranks read their weights
    from the node's shared memory. None for a worker of one rank."""
    if config.num_ranks_per_worker == 1:
        return None
    bundle = {"CPU": config.num_cpus_per_worker, "GPU": config.num_gpus_per_worker}
    bundle = {kind: amount for kind, amount in bundle.items() if amount}
    return placement_group([bundle] * config.num_ranks_per_worker, strategy="STRICT_PACK")


def worker_options(config: RolloutConfig, group: PlacementGroup | None) -> dict[str, Any]:
    """What Ray is asked for one worker: workers of one rank are spread over the nodes, except where they must share the
    learner's GPU (Ray fills a GPU that is taken in part before it begins another). In a group the worker itself
    takes no GPU: vLLM starts its ranks in the bundles, a GPU each."""
    if group is None:
        shares_gpu = load_transport(config.vllm.weight_transfer).gpus == "shared"
        return {
            "num_cpus": config.num_cpus_per_worker,
            "num_gpus": config.num_gpus_per_worker,
            "scheduling_strategy": "DEFAULT" if shares_gpu else "SPREAD",
        }
    strategy = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    return {"num_cpus": config.num_cpus_per_worker, "num_gpus": 0, "scheduling_strategy": strategy}
