"""What a language model itself knows of a prompt: the mean state of its middle layers over the prompt's tokens.

Every token's state is divided by its root mean square, so that no token with huge activations decides the mean, and the
first token is left out: models park attention there, and its state says nothing of the prompt. Layers above the deepest
that is asked for are not run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from gps_ray.base.errors import ModelError
from gps_ray.base.types import FloatArray, IntArray

__all__ = ["layers_at", "middle_states"]

_TOKENS_AT_ONCE = 2048


def layers_at(model: Any, depths: Sequence[float]) -> tuple[int, ...]:
    """The layers, counted from 1, at these shares of the model's depth (0 < depth <= 1), each once, in order."""
    num_layers = model.config.get_text_config().num_hidden_layers
    return tuple(sorted({min(max(round(depth * num_layers), 1), num_layers) for depth in depths}))


def middle_states(model: Any, prompts: Sequence[IntArray], layers: Sequence[int], max_tokens: int) -> FloatArray:
    """[N, L * H] float16 of N prompts' tokens [P_i], L layers and H hidden dimensions, layers one after the other.

    Of a prompt the last ``max_tokens`` tokens are read; one without tokens has zeros. Batches are cut by length alone,
    so the states are a function of the arguments. Raises ModelError where the model's layers cannot be found.
    """
    blocks = _blocks(model)
    width = model.config.get_text_config().hidden_size
    states = np.zeros((len(prompts), len(layers) * width), dtype=np.float16)
    tokens = [np.asarray(prompt[-max_tokens:], dtype=np.int64) for prompt in prompts]
    found: dict[int, torch.Tensor] = {}
    hooks = [blocks[layer - 1].register_forward_hook(_keep(found, layer, layer == max(layers))) for layer in layers]
    try:
        with torch.inference_mode():
            for rows in _batches([len(prompt) for prompt in tokens]):
                states[rows] = _read(model, [tokens[row] for row in rows], found, layers)
    finally:
        for hook in hooks:
            hook.remove()
    return states


class _DeepEnoughError(Exception):
    """Ends a forward pass: the deepest layer has been read."""


def _keep(found: dict[int, torch.Tensor], layer: int, is_last: bool) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        found[layer] = output[0] if isinstance(output, tuple) else output
        if is_last:
            raise _DeepEnoughError

    return hook


def _blocks(model: Any) -> Any:
    """The decoder layers: the one list of modules that is as long as the config says."""
    num_layers = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == num_layers]
    if not lists:
        raise ModelError(
            f"model.path: {type(model).__name__} has no list of {num_layers} layers to read prompt states from; "
            "train without selection.features.policy_states"
        )
    return lists[0]


def _batches(lengths: Sequence[int]) -> Iterator[IntArray]:
    """Rows of similar lengths, the longest times their number within ``_TOKENS_AT_ONCE``; without empty prompts."""
    order = np.argsort(lengths, kind="stable")
    order = order[np.asarray(lengths)[order] > 0]
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * lengths[order[end]] <= _TOKENS_AT_ONCE:
            end += 1
        yield order[start:end]
        start = end


def _read(model: Any, prompts: Sequence[IntArray], found: dict[int, torch.Tensor], layers: Sequence[int]) -> FloatArray:
    """[K, L * H] float16. Padding stands on the right, where causal attention never looks."""
    longest = max(map(len, prompts))
    tokens = torch.zeros((len(prompts), longest), dtype=torch.int64)
    counted = torch.zeros((len(prompts), longest, 1))
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.from_numpy(prompt)
        counted[row, min(1, len(prompt) - 1) : len(prompt)] = 1.0
    device = next(model.parameters()).device
    with contextlib.suppress(_DeepEnoughError):
        model(input_ids=tokens.to(device), use_cache=False)
    parts = [_mean(found[layer].float().cpu(), counted) for layer in layers]
    found.clear()
    read: FloatArray = torch.cat(parts, dim=1).to(torch.float16).numpy()
    return read


def _mean(states: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    size = states.norm(dim=-1, keepdim=True) / math.sqrt(states.shape[-1])
    scaled = states / size.clamp(min=1e-6)
    mean: torch.Tensor = (scaled * counted).sum(dim=1) / counted.sum(dim=1)
    return mean
