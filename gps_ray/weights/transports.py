"""The transports of weights by name, what each needs, and a user's own by import path."""

from __future__ import annotations

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import load_object
from gps_ray.config import LearningConfig, RolloutConfig
from gps_ray.weights.interface import KEY, REMEDY, Transport

__all__ = ["TRANSPORTS", "check_transport", "load_transport"]

# By path: whoever reads the table has not loaded torch yet.
TRANSPORTS = {
    "object_store": "gps_ray.weights.object_store:TRANSPORT",
    "ipc": "gps_ray.weights.ipc:TRANSPORT",
    "nccl": "gps_ray.weights.nccl:TRANSPORT",
}


def load_transport(name: str) -> Transport:
    """The transport that ``rollout.vllm.weight_transfer`` names: a row of the table, or 'package.module:TRANSPORT'.

    Raises ConfigError where there is none.
    """
    if name not in TRANSPORTS and ":" not in name:
        raise ConfigError(
            f"{KEY}: expected one of {', '.join(TRANSPORTS)} or 'package.module:TRANSPORT', got {name!r}; change {KEY}"
        )
    transport = load_object(TRANSPORTS.get(name, name), KEY)
    if not isinstance(transport, Transport):
        raise ConfigError(
            f"{KEY}: {name!r} must be a gps_ray.weights.interface.Transport, got {type(transport).__name__}; "
            f"change {KEY}"
        )
    return transport


def check_transport(rollout: RolloutConfig, learning: LearningConfig) -> None:
    """Raise ConfigError where the config does not give the transport what it needs, naming the key to change."""
    name = rollout.vllm.weight_transfer
    transport = load_transport(name)
    if transport.engines is not None and rollout.engine not in transport.engines:
        needed = " or ".join(transport.engines)
        raise ConfigError(f"{KEY}: {name} needs rollout.engine={needed}, got {rollout.engine}; or {REMEDY}")
    if transport.gpus == "any":
        return
    _check_gpus(name, transport, rollout, learning)
    if transport.gpus == "shared":
        _check_shared(name, rollout, learning)


def _check_gpus(name: str, transport: Transport, rollout: RolloutConfig, learning: LearningConfig) -> None:
    """NCCL takes no two ranks on one GPU."""
    gpus = {
        "rollout.num_gpus_per_worker": rollout.num_gpus_per_worker,
        "learning.num_gpus_per_worker": learning.num_gpus_per_worker,
    }
    for key, value in gpus.items():
        if value == 0:
            raise ConfigError(f"{KEY}: {name} needs a GPU, got {key}=0; set {key}, or {REMEDY}")
        if transport.gpus == "own" and value != 1:
            raise ConfigError(
                f"{KEY}: with {name} every rank has a GPU of its own, got {key}={value:g}; set {key}=1, or {REMEDY}"
            )
    if learning.lora_rank:
        raise ConfigError(
            f"{KEY}: with {name} engines read the learner's own parameters, not adapters, got "
            f"learning.lora_rank={learning.lora_rank}; set learning.lora_rank=0, or {REMEDY}"
        )


def _check_shared(name: str, rollout: RolloutConfig, learning: LearningConfig) -> None:
    """CUDA IPC reaches memory of the engine's own GPU."""
    for key, count in (
        ("learning.num_workers", learning.num_workers),
        ("rollout.vllm.tensor_parallel_size", rollout.vllm.tensor_parallel_size),
    ):
        if count > 1:
            raise ConfigError(
                f"{KEY}: with {name} everything is on one GPU, got {key}={count}; set {key}=1, or {REMEDY}"
            )
    total = learning.num_gpus_per_worker + rollout.num_workers * rollout.num_gpus_per_worker
    if total > 1 + 1e-9:
        raise ConfigError(
            f"{KEY}: with {name} learner and workers share one GPU, got {total:g} GPUs "
            f"(learning.num_gpus_per_worker + rollout.num_workers x rollout.num_gpus_per_worker); lower them, or "
            f"{REMEDY}"
        )
