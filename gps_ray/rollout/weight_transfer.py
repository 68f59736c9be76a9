"""What an engine hands to vLLM's weight-transfer protocol, and what it checks before. Does not import vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gps_ray.errors import RolloutError

__all__ = ["check_same_gpu", "init_info"]


def init_info(backend: Literal["object_store", "ipc"]) -> dict[str, Any]:
    """What the backend must know before the first update. The learner exports each parameter on its own, unpacked."""
    return {"packed": False} if backend == "ipc" else {}


def check_same_gpu(message: Mapping[str, Any], gpu_uuid: str) -> None:
    """Raise RolloutError where the learner's ``message`` (``gps_ray.learning.device_snapshots``) leads to no memory of
    the engine's own GPU: each of its ``ipc_handles`` is a mapping of GPU UUID to handle."""
    handles = message.get("ipc_handles")
    if handles is None:
        raise RolloutError(
            "rollout.vllm.weight_transfer: ipc expected handles from the learner, got its weights; set "
            "rollout.vllm.weight_transfer=object_store"
        )
    others = sorted({uuid for handle in handles for uuid in handle} - {gpu_uuid})
    if others:
        raise RolloutError(
            f"rollout.vllm.weight_transfer: with ipc learner and engine must share a GPU, the learner is on "
            f"{', '.join(others)}, the engine on {gpu_uuid}; run on a cluster of one GPU, or set "
            "rollout.vllm.weight_transfer=object_store"
        )
