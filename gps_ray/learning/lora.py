"""LoRA: the policy's linear layers are frozen, and a product of two thin matrices is trained beside each.

    y = W x + (alpha / r) B A x,    W [out, in] frozen, A [r, in], B [out, r]

(Hu et al. 2021, arXiv 2106.09685, section 4.1; the layers are peft's.) Outside the learner there are no adapters: what
leaves it is W + (alpha / r) B A under the name of W, made on a copy, so that the trained tensors are never rounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.helpers import rescale_adapter_scale
from peft.tuners.lora import Linear as AdaptedLinear
from torch import nn
from transformers.pytorch_utils import Conv1D

from gps_ray.base.errors import LearnerError
from gps_ray.base.keyed_random import seed_64
from gps_ray.config import LearningConfig
from gps_ray.model import load_model

__all__ = ["adapters_off", "has_adapters", "load_policy", "merged_weights", "trained_state"]

ALL_LINEAR = "all-linear"
ADAPTER = "default"
# What torch's checkpoint_wrapper calls the layer within it.
WRAPPER = "_checkpoint_wrapped_module"


def load_policy(directory: Path, config: LearningConfig) -> Any:
    """The model of a Hugging Face folder to be trained: whole, or with ``config.lora_rank`` above 0 its adapters only.

    A is drawn uniformly from +-1/sqrt(in), always the same way; B is 0, so that the first policy is the folder's own.
    Raises LearnerError (naming learning.lora_target_modules) where a target is no linear layer of the model.
    """
    model = load_model(directory)
    if not config.lora_rank:
        return model
    adapters = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=_targets(model, config.lora_target_modules),
    )
    # Drawn from torch's global generator: it is seeded here, for all workers alike, and given back as it was.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed_64(0, "learning/lora_init"))
        # GPT-2's Conv1D keeps its weight transposed; peft sees that by itself and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        inject_adapter_in_model(adapters, model)
    return model.eval()


def _targets(model: Any, wanted: str | tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that ``wanted`` means: all but the head, or those named by their last parts."""
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if wanted == ALL_LINEAR:
        return [name for name, module in linear.items() if module is not head]
    endings = (wanted,) if isinstance(wanted, str) else wanted
    if any(f"{name}.weight" in model.all_tied_weights_keys for name in _ending(linear, endings)):
        raise LearnerError(
            f"learning.lora_target_modules: the head of {type(model).__name__} shares its weight with the embedding "
            "and cannot change alone; leave it out of learning.lora_target_modules"
        )
    unknown = [ending for ending in endings if not _ending(linear, (ending,))]
    if unknown or not endings:
        known = sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head})
        raise LearnerError(
            f"learning.lora_target_modules: expected linear layers of {type(model).__name__}, got "
            f"{unknown or 'none'}; set it to {ALL_LINEAR} or to some of {', '.join(known)}"
        )
    return _ending(linear, endings)


def _ending(names: Mapping[str, Any], endings: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(name == ending or name.endswith(f".{ending}") for ending in endings)]


def _adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The layers with an adapter, named as in a state dict: without the wrappers of activation checkpointing."""
    return {
        name.replace(f"{WRAPPER}.", ""): module
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLinear)
    }


def has_adapters(model: nn.Module) -> bool:
    return any(isinstance(module, AdaptedLinear) for module in model.modules())


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within it the policy is the one that the run started from; nothing changes for a model without adapters.

    The adapters' share is multiplied by 0. To disable them as peft does would switch their ``requires_grad``, on
    whatever tensors FSDP2 has in their place at that moment.
    """
    if not has_adapters(model):
        yield
        return
    with rescale_adapter_scale(model, 0.0):
        yield


@torch.no_grad()
def merged_weights(weights: dict[str, np.ndarray[Any, Any]], model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """W + (alpha / r) B A for every adapted layer, float32, under the names that the model has without adapters.

    ``weights`` are whole copies of the adapted model's parameters, and are changed; {} on workers that get none.
    """
    layers = _adapted(model)
    if not layers:
        return weights
    merged = {}
    for name, array in weights.items():
        if _is_adapter(name):
            continue
        owner, _, parameter = name.partition(".base_layer.")
        if owner in layers and parameter == "weight":
            first, second = (torch.from_numpy(weights[f"{owner}.lora_{part}.{ADAPTER}.weight"]) for part in "AB")
            weight = torch.from_numpy(array)
            target = weight.t() if layers[owner].fan_in_fan_out else weight
            target.addmm_(second, first, alpha=layers[owner].scaling[ADAPTER])
        merged[f"{owner}.{parameter}" if parameter else name] = array
    return {name: merged[name] for name in sorted(merged)}


def trained_state(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The part of a model's state dict that a checkpoint needs: the adapters, or all where there are none."""
    if not has_adapters(model):
        return state
    return {name: tensor for name, tensor in state.items() if _is_adapter(name)}


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
