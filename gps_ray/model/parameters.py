"""A model's parameters by their Hugging Face names, as numpy arrays that may travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gps_ray.base.errors import ModelError

__all__ = ["load_weights_into", "tied_names", "weights_from_state_dict", "weights_of"]


def tied_names(model: Any) -> frozenset[str]:
    """Names that are only another name of a parameter (lm_head.weight of tied embeddings)."""
    return frozenset(model.all_tied_weights_keys)


def weights_from_state_dict(
    state_dict: Mapping[str, torch.Tensor], tied: frozenset[str] = frozenset()
) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> numpy copy, sorted by name, without the ``tied`` names. bfloat16 and float16, which numpy or Arrow do
    not know, travel as float32 (exact)."""
    weights = {}
    for name in sorted(set(state_dict) - tied):
        tensor = state_dict[name].detach()
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        weights[name] = tensor.to(device="cpu", dtype=dtype, copy=True).contiguous().numpy()
    return weights


def weights_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """All parameters by their Hugging Face names, as copies (``weights_from_state_dict``)."""
    return weights_from_state_dict(model.state_dict(), tied_names(model))


@torch.no_grad()
def load_weights_into(model: Any, weights: Mapping[str, Any]) -> None:
    """Copy ``weights`` (arrays as ``weights_of`` gives them, or tensors) into the model in place.

    Raises ModelError naming a missing, unexpected or mismatched parameter; nothing is changed then.
    """
    parameters = {name: tensor for name, tensor in model.state_dict().items() if name not in tied_names(model)}
    problems = [f"missing {name}" for name in sorted(parameters.keys() - weights.keys())]
    problems += [f"unexpected {name}" for name in sorted(weights.keys() - parameters.keys())]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(parameters[name].shape)}"
        for name in sorted(parameters.keys() & weights.keys())
        if tuple(weights[name].shape) != tuple(parameters[name].shape)
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ModelError(f"weights do not fit the model: {'; '.join(problems[:3])}{more}; change model.path")
    for name, parameter in parameters.items():
        value = weights[name]
        # torch.tensor copies, so that read-only shared memory may come in.
        parameter.copy_(value if isinstance(value, torch.Tensor) else torch.tensor(value))
