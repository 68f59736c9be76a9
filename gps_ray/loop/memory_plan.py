"""What each process of a run takes in memory, from the model's config.json, before anything starts.

Weights, gradients and optimizer state are counted; activations are what the architecture's own code saves on tensors
without memory (``gps_ray.model.activations``); logits are those of ``gps_ray.learning.pieces``; the rest is what was
seen of CUDA and torch. ``jobs.bench memory_plan`` holds it against measured peaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gps_ray.base.devices import DEVICES
from gps_ray.base.errors import ResourceError
from gps_ray.config import LearningConfig, TrainConfig
from gps_ray.loop.presets import with_key

__all__ = ["MemoryPlan", "Part", "ProcessPlan", "check_memory_plan", "kv_bytes_per_token", "memory_plan"]

_GIB = 2**30
# A process with torch: its libraries, the CUDA context, and what allocators lose between blocks.
_OVERHEAD_GPU, _OVERHEAD_CPU = 1.5 * _GIB, 0.5 * _GIB
# vLLM's captured graphs, and its own peak of one forward pass beside weights and cache.
_CUDA_GRAPHS, _ENGINE_PEAK = 1.0 * _GIB, 1.0 * _GIB
# Tensors of the size of a piece of the logits that live at a time (gps_ray.learning.pieces).
_PIECES_AT_A_TIME = 3
# Bytes per entry of logits that are computed whole.
_WHOLE_LOGIT_BYTES = 13


@dataclass(frozen=True, slots=True)
class Part:
    """``key``: what changes it most."""

    what: str
    num_bytes: float
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """``count`` processes of one kind, each with ``num_gpus`` of a GPU. ``note``: what the numbers amount to."""

    what: str
    count: int
    num_gpus: float
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def num_bytes(self) -> float:
        return sum(part.num_bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The processes, and the memory in bytes of one GPU (of this machine where none is used), None where unknown."""

    processes: tuple[ProcessPlan, ...]
    capacity: float | None

    def loads(self) -> Iterator[tuple[str, tuple[ProcessPlan, ...], float]]:
        """(place, the kinds of processes there, bytes) of every kind of place that memory is short in."""
        on_gpu = [process for process in self.processes if process.num_gpus > 0]
        if not on_gpu:
            yield "this machine", self.processes, sum(p.count * p.num_bytes for p in self.processes)
        elif len(on_gpu) > 1 and sum(process.num_gpus for process in on_gpu) <= 1:
            yield "the GPU that they share", tuple(on_gpu), sum(p.num_bytes for p in on_gpu)
        else:
            for process in on_gpu:
                beside = max(int(1 / process.num_gpus + 1e-9), 1)
                yield f"a {process.what}'s GPU", (process,), beside * process.num_bytes


def memory_plan(config: TrainConfig, prompt_tokens: int) -> MemoryPlan | None:
    """Of a resolved config; ``prompt_tokens``: of a usual prompt. None for the embedded model, which fits anywhere.

    Raises ModelError where the folder describes no model.
    """
    if config.model.path is None:
        return None
    directory = config.model.path
    processes = [_train_worker(config, directory, prompt_tokens)]
    if config.rollout.engine != "simulated":
        processes.append(_rollout_rank(config, directory, prompt_tokens))
    return MemoryPlan(processes=tuple(processes), capacity=_capacity(config))


def check_memory_plan(config: TrainConfig, prompt_tokens: int) -> None:
    """Raise ResourceError, with keys that would make it fit, where a config cannot fit the memory that is known."""
    found = _overflow(memory_plan(config, prompt_tokens))
    if found is None:
        return
    place, processes, num_bytes, capacity = found
    largest = sorted((part for process in processes for part in process.parts), key=lambda part: -part.num_bytes)[:3]
    parts = ", ".join(f"{part.what} {_gib(part.num_bytes)} ({part.key})" for part in largest)
    raise ResourceError(
        f"{largest[0].key}: {place} would hold {_gib(num_bytes)} GiB, it has {_gib(capacity)}; the most is {parts}; "
        f"{_remedy(config, prompt_tokens)}"
    )


def _overflow(plan: MemoryPlan | None) -> tuple[str, Sequence[ProcessPlan], float, float] | None:
    if plan is None or plan.capacity is None:
        return None
    for place, processes, num_bytes in plan.loads():
        if num_bytes > plan.capacity:
            return place, processes, num_bytes, plan.capacity
    return None


def _remedy(config: TrainConfig, prompt_tokens: int) -> str:
    """The first of some changes, the cheapest first, under which the plan fits."""
    tried, changed = config, dict[str, object]()
    for key, value in _changes(config):
        tried, changed[key] = with_key(tried, key, value), value
        if _overflow(memory_plan(tried, prompt_tokens)) is None:
            return f"it would fit with {' '.join(f'{key}={str(new).lower()}' for key, new in changed.items())}"
    return "take a smaller model, larger GPUs, or learning.lora_rank=16"


def _changes(config: TrainConfig) -> Iterator[tuple[str, object]]:
    """(key, value), one after the other, each on top of those before."""
    yield "learning.activation_checkpointing", True
    tokens = config.learning.microbatch_tokens
    while tokens > 4096:
        tokens //= 2
        yield "learning.microbatch_tokens", tokens
    if config.learning.num_gpus_per_worker >= 1:
        for factor in (2, 4, 8):
            yield "learning.num_workers", factor * config.learning.num_workers
    if config.rollout.engine == "vllm":
        if config.rollout.num_gpus_per_worker >= 1:
            for factor in (2, 4, 8):
                yield "rollout.vllm.tensor_parallel_size", factor * config.rollout.vllm.tensor_parallel_size
    else:
        per_chunk = config.rollout.prompts_per_chunk
        while per_chunk > 1:
            per_chunk //= 2
            yield "rollout.prompts_per_chunk", per_chunk


def _capacity(config: TrainConfig) -> float | None:
    if config.learning.num_gpus_per_worker > 0 or config.rollout.num_gpus_per_worker > 0:
        return None if config.cluster.gpu is None else DEVICES[config.cluster.gpu].memory_bytes
    if config.cluster.address is not None:
        return None  # the nodes of a cluster are not this machine
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _train_worker(config: TrainConfig, directory: Path, prompt_tokens: int) -> ProcessPlan:
    from gps_ray.model.model_facts import model_facts  # transformers takes seconds to import, here and below

    learning, facts = config.learning, model_facts(directory)
    shares = learning.num_workers
    trained = facts.linear_width * learning.lora_rank if learning.lora_rank else facts.num_parameters
    more_workers = "learning.num_workers"
    num_tokens = _microbatch_tokens(config, prompt_tokens)
    # A value model has a body of the same size.
    models = 2 if learning.loss == "ppo" else 1
    parts = [
        Part("weights", models * 4 * facts.num_parameters / shares, more_workers),
        Part("gradients", models * 4 * trained / shares, more_workers),
        Part("AdamW", models * 8 * trained / shares, more_workers),
    ]
    if config.model.dtype == "bfloat16":
        parts.append(Part("weights in bfloat16", _gathered(config, directory), more_workers))
    if learning.kl_coefficient and not learning.lora_rank:
        parts.append(Part("reference policy", 4 * facts.num_parameters / shares, "learning.kl_coefficient"))
    parts += [
        Part("activations", num_tokens * _per_token(config, directory), "learning.microbatch_tokens"),
        Part(
            "logits", _logits(learning, num_tokens, facts.vocabulary, facts.hidden_size), "learning.microbatch_tokens"
        ),
    ]
    if config.rollout.engine == "vllm" and config.rollout.vllm.weight_transfer in ("ipc", "nccl"):
        # Rank 0 keeps a copy of every version that may be asked for.
        num_bytes = (config.run.max_policy_lag + 2) * _width(config) * facts.num_parameters
        parts.append(Part("copies for the engines", num_bytes, "rollout.vllm.weight_transfer"))
    parts.append(_overhead(learning.num_gpus_per_worker))
    return ProcessPlan(
        what="train worker",
        count=learning.num_workers,
        num_gpus=learning.num_gpus_per_worker,
        parts=tuple(parts),
        note=f"{num_tokens} tokens per micro-batch",
    )


def _microbatch_tokens(config: TrainConfig, prompt_tokens: int) -> int:
    """Of the fullest micro-batch: no fuller than a worker's part of a mini-batch, where all responses are as long as
    they may be."""
    learning, rollout = config.learning, config.rollout
    num_rollouts = -(-config.selection.num_prompts * rollout.group_size // learning.num_minibatches)
    part = -(-num_rollouts // learning.num_workers) * (prompt_tokens + rollout.max_response_tokens)
    return min(learning.microbatch_tokens, part)


def kv_bytes_per_token(config: TrainConfig, directory: Path) -> float:
    """Of the KV cache of one rank of a rollout worker."""
    from gps_ray.model.model_facts import model_facts

    return _width(config) * model_facts(directory).kv_entries_per_token / config.rollout.num_ranks_per_worker


def _width(config: TrainConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def _gathered(config: TrainConfig, directory: Path) -> float:
    """Weights that autocast, or FSDP2, makes for the passes: all of them, or those of two layers and the embeddings."""
    from gps_ray.model.activations import activation_facts
    from gps_ray.model.model_facts import model_facts

    facts = model_facts(directory)
    if config.learning.num_workers == 1:
        return 2 * facts.num_parameters
    outside = min(2 * facts.vocabulary * facts.hidden_size, facts.num_parameters)
    num_layers = activation_facts(directory, config.model.dtype, sharded=True).num_layers
    return 2 * (outside + 2 * (facts.num_parameters - outside) / num_layers)


def _per_token(config: TrainConfig, directory: Path) -> float:
    from gps_ray.model.activations import activation_facts

    facts = activation_facts(directory, config.model.dtype, sharded=config.learning.num_workers > 1)
    return facts.bytes_per_token(checkpointing=config.learning.activation_checkpointing)


def _logits(learning: LearningConfig, num_tokens: int, vocabulary: int, hidden_size: int) -> float:
    from torch import device

    from gps_ray.learning.pieces import piece_entries

    entries = piece_entries(device("cuda" if learning.num_gpus_per_worker else "cpu"))
    if learning.microbatch_tokens * vocabulary <= entries:
        return _WHOLE_LOGIT_BYTES * num_tokens * vocabulary
    # The pieces, and the head's gradient, which is summed in float32 before it is added.
    return _PIECES_AT_A_TIME * 4 * entries + (0 if learning.lora_rank else 2 * 4 * vocabulary * hidden_size)


def _rollout_rank(config: TrainConfig, directory: Path, prompt_tokens: int) -> ProcessPlan:
    from gps_ray.model.model_facts import model_facts

    rollout, facts = config.rollout, model_facts(directory)
    per_token = kv_bytes_per_token(config, directory)
    longest = prompt_tokens + rollout.max_response_tokens
    weights = Part(
        "weights",
        _width(config) * facts.num_parameters / rollout.num_ranks_per_worker,
        "rollout.vllm.tensor_parallel_size",
    )
    overhead = _overhead(rollout.num_gpus_per_worker)
    if rollout.engine == "vllm":
        parts = [weights, Part("forward pass", _ENGINE_PEAK, "rollout.vllm.max_num_batched_tokens"), overhead]
        if rollout.num_gpus_per_worker and not rollout.vllm.enforce_eager:
            parts.append(Part("CUDA graphs", _CUDA_GRAPHS, "rollout.vllm.enforce_eager"))
        cache = _vllm_cache(config, sum(part.num_bytes for part in parts), longest * per_token)
        key = "rollout.vllm.kv_cache_memory_bytes"
    else:
        num_rows = rollout.prompts_per_chunk * rollout.group_size
        logits = 3 * 4 * num_rows * facts.vocabulary
        parts = [weights, Part("logits", logits, "rollout.prompts_per_chunk"), overhead]
        cache, key = num_rows * longest * per_token, "rollout.prompts_per_chunk"
    num_tokens = int(cache / per_token)
    return ProcessPlan(
        what="rollout worker" + (" rank" if rollout.num_ranks_per_worker > 1 else ""),
        count=rollout.num_workers * rollout.num_ranks_per_worker,
        num_gpus=rollout.num_gpus_per_worker,
        parts=(*parts, Part("KV cache", cache, key)),
        note=f"a cache of {num_tokens} tokens: {num_tokens // longest} responses of full length at a time",
    )


def _vllm_cache(config: TrainConfig, beside: float, one_response: float) -> float:
    """As configured, or what gpu_memory_utilization leaves of a GPU; at least one response of full length."""
    vllm = config.rollout.vllm
    if vllm.kv_cache_memory_bytes is not None:
        if vllm.kv_cache_memory_bytes < one_response:
            raise ResourceError(
                f"rollout.vllm.kv_cache_memory_bytes: {_gib(vllm.kv_cache_memory_bytes)} GiB hold no response of full "
                f"length with its prompt, which takes {_gib(one_response)}; raise it or lower "
                "rollout.max_response_tokens"
            )
        return vllm.kv_cache_memory_bytes
    device = _capacity(config)
    if device is None:
        return one_response
    return max(vllm.gpu_memory_utilization * device - beside, one_response)


def _overhead(num_gpus: float) -> Part:
    return Part("context and gaps", _OVERHEAD_GPU if num_gpus else _OVERHEAD_CPU, "model.path")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / _GIB:.1f}"
