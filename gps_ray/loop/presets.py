"""Defaults that fit the model: what a config leaves open is the toy's for the toy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from gps_ray.config import TrainConfig

if TYPE_CHECKING:
    from gps_ray.model.model_facts import ModelFacts

__all__ = ["Preset", "presets", "with_key", "with_presets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SizeClass:
    """Models of at most so many parameters.

    max_response_tokens: room for worked answers, more where the model can make use of it. learning_rate: of AdamW on
    all weights; 1e-6 is what published runs of 1 B and more use, smaller models take and need more (135 M: 1e-5).
    kv_cache_memory_bytes: of a rollout worker without a GPU of its own; on a GPU vLLM takes what it may.
    """

    most_parameters: float
    name: str
    max_response_tokens: int
    learning_rate: float
    kv_cache_memory_bytes: int


# Smaller models are toys like the embedded one and keep its defaults.
_TOY_PARAMETERS = 10_000_000
_CLASSES = (
    _SizeClass(
        most_parameters=0.5e9,
        name="10 M to 0.5 B",
        max_response_tokens=512,
        learning_rate=1e-5,
        kv_cache_memory_bytes=1 << 30,
    ),
    _SizeClass(
        most_parameters=1e9,
        name="0.5 to 1 B",
        max_response_tokens=1024,
        learning_rate=3e-6,
        kv_cache_memory_bytes=2 << 30,
    ),
    _SizeClass(
        most_parameters=3.5e9,
        name="1 to 3.5 B",
        max_response_tokens=1024,
        learning_rate=1e-6,
        kv_cache_memory_bytes=4 << 30,
    ),
    _SizeClass(
        most_parameters=float("inf"),
        name="more than 3.5 B",
        max_response_tokens=2048,
        learning_rate=1e-6,
        kv_cache_memory_bytes=8 << 30,
    ),
)
# A response of a model that thinks first is wrong until it has finished thinking.
_THINKING_TOKENS = 8192
# Adapters of low rank need about ten times the learning rate of all weights.
_LORA_FACTOR = 10.0
# In bfloat16 engine and learner round at different places (measured on SmolLM2-135M: mean .09 on sampled text, .25 on
# the probe's random one). A layer that did not arrive is several nats.
_PROBE_TOLERANCE = 0.5
_CPU_MICROBATCH_TOKENS = 4096
# A probe of the toy is 256 x 16 rollouts, more than a whole step of a real model.
_NUM_PROBE_PROMPTS, _PROBE_ROLLOUTS = 64, 8
# Long responses and large models take their time; the toy's deadlines would end a healthy run.
_DEADLINE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Preset:
    """A dotted key, its value, and the models it is for."""

    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value} (preset for {self.why})"


def presets(config: TrainConfig) -> list[Preset]:
    """What fits the model of ``model.path`` for the keys that the config leaves open; none for the embedded model and
    for toys of its size. Raises ModelError where the folder describes no model."""
    if config.model.path is None:
        return []
    from gps_ray.model.model_facts import model_facts  # transformers takes seconds to import

    facts = model_facts(config.model.path)
    if facts.num_parameters < _TOY_PARAMETERS:
        return []
    size = next(row for row in _CLASSES if facts.num_parameters <= row.most_parameters)
    why = f"{size.name} parameters"
    of_devices = _of_devices(config, facts)
    dtype = next((preset.value for preset in of_devices if preset.key == "model.dtype"), config.model.dtype)
    found = [
        *of_devices,
        _response_tokens(config, facts, size, _served(config, of_devices)),
        Preset("learning.learning_rate", *_learning_rate(config, size)),
        Preset("cluster.object_store_memory_bytes", _object_store(facts, dtype), why),
        Preset("rollout.vllm.kv_cache_memory_bytes", *_kv_cache(config, size)),
        Preset("evaluation.num_probe_prompts", _NUM_PROBE_PROMPTS, why),
        Preset("evaluation.probe_rollouts", _PROBE_ROLLOUTS, why),
        *(
            Preset(key, _DEADLINE_S, why)
            for key in (
                "rollout.chunk_deadline_s",
                "rollout.start_deadline_s",
                "learning.start_deadline_s",
                "learning.update_deadline_s",
            )
        ),
    ]
    return [preset for preset in found if not _is_set(config, preset.key)]


def with_presets(config: TrainConfig) -> TrainConfig:
    """The config with its presets filled in; what it says itself stays."""
    for preset in presets(config):
        config = with_key(config, preset.key, preset.value)
    return config


def _object_store(facts: ModelFacts, dtype: str) -> int:
    """Whole GiB for three copies of the weights, two versions and one on its way, beside a step's rollouts."""
    num_bytes = 2 if dtype == "bfloat16" else 4
    return -(-(3 * num_bytes * facts.num_parameters + (256 << 20)) // (1 << 30)) << 30


def _of_devices(config: TrainConfig, facts: ModelFacts) -> list[Preset]:
    """What follows from where the model computes, not from its size."""
    rollout, found = config.rollout, []
    if config.learning.num_gpus_per_worker == 0:
        # A GPU is idle at short passes; a CPU is not, and has no 20 GiB for the activations of long ones.
        found.append(Preset("learning.microbatch_tokens", _CPU_MICROBATCH_TOKENS, "a learner on CPUs"))
    on_gpus = rollout.num_gpus_per_worker > 0
    if on_gpus and rollout.engine == "vllm":
        found.append(Preset("rollout.vllm.enforce_eager", False, "GPUs: captured graphs, else 16 ms per token"))
    whole = rollout.vllm.max_num_batched_tokens
    if not on_gpus and rollout.engine == "vllm" and (facts.max_positions or 0) > whole:
        found.append(Preset("rollout.vllm.max_model_len", whole, "vLLM on CPUs reads a prompt in one pass"))
    dtype = config.model.dtype
    if on_gpus and config.learning.num_gpus_per_worker > 0 and not _is_set(config, "model.dtype"):
        dtype = "bfloat16"
        found.append(Preset("model.dtype", dtype, "GPUs"))
    if dtype == "bfloat16":
        # Ratios against what the engine rounded differently would be clipped before anything has changed.
        level = "sequence" if config.learning.loss == "gspo" else "token"
        found.append(Preset("rollout.probe_tolerance", _PROBE_TOLERANCE, "bfloat16"))
        found.append(Preset("learning.rollout_is", level, "bfloat16: old log-probs are the learner's own"))
    return found


def _response_tokens(config: TrainConfig, facts: ModelFacts, size: _SizeClass, served: int | None) -> Preset:
    why, tokens = f"{size.name} parameters", size.max_response_tokens
    template = facts.chat_template
    if config.data.chat_template is not None and config.data.chat_template.is_file():
        template = config.data.chat_template.read_text(errors="replace")
    if "<think>" in template and config.data.chat_template_kwargs.get("enable_thinking", True):
        why, tokens = f"{why} whose chat template knows <think>", _THINKING_TOKENS
    # At least half of what the model, or the engine, takes is left to the prompt.
    limits = [limit for limit in (facts.max_positions, served) if limit is not None]
    return Preset("rollout.max_response_tokens", min([tokens, *(limit // 2 for limit in limits)]), why)


def _served(config: TrainConfig, of_devices: Sequence[Preset]) -> int | None:
    """Tokens of prompt and response together that the engine takes, where that is less than the model does."""
    key = "rollout.vllm.max_model_len"
    if config.rollout.engine != "vllm":
        return None
    if _is_set(config, key):
        return config.rollout.vllm.max_model_len
    return next((preset.value for preset in of_devices if preset.key == key), None)


def _learning_rate(config: TrainConfig, size: _SizeClass) -> tuple[float, str]:
    if config.learning.lora_rank:
        return _LORA_FACTOR * size.learning_rate, f"{size.name} parameters, LoRA"
    return size.learning_rate, f"{size.name} parameters"


def _kv_cache(config: TrainConfig, size: _SizeClass) -> tuple[int | None, str]:
    rollout = config.rollout
    if rollout.num_gpus_per_worker >= 1 and rollout.vllm.weight_transfer != "ipc":
        return None, "workers with whole GPUs: up to rollout.vllm.gpu_memory_utilization"
    return size.kv_cache_memory_bytes, f"{size.name} parameters"


def _is_set(config: TrainConfig, key: str) -> bool:
    *parents, last = key.split(".")
    section: BaseModel = config
    for name in parents:
        if name not in section.model_fields_set:
            return False
        section = getattr(section, name)
    return last in section.model_fields_set


def with_key(config: TrainConfig, key: str, value: Any) -> TrainConfig:
    """The config with another value under a dotted key, unchecked."""
    changed: TrainConfig = _with(config, key.split("."), value)
    return changed


def _with(section: Any, names: list[str], value: Any) -> Any:
    first, *rest = names
    new = _with(getattr(section, first), rest, value) if rest else value
    return section.model_copy(update={first: new})
