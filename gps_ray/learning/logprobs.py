"""The one forward pass that RL, supervised training and the probe share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gps_ray.learning.packing import PackedBatch

__all__ = ["can_share_prompts", "token_logprobs"]

# Attention functions of transformers that take a mask of any form.
_MASKED_ATTENTION = ("sdpa", "eager")


def can_share_prompts(model: Any) -> bool:
    """Does this model attend to what a mask [R, 1, L, L] lets it see, and to nothing else? Sliding windows put a mask
    of their own over it, and layers without attention (state-space, linear) read every token before them."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ("full_attention",)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        config._attn_implementation in _MASKED_ATTENTION
        and set(layers) == {"full_attention"}
        and window is None
        and model._supports_sdpa
        and not getattr(model, "_is_stateful", False)
    )


def token_logprobs(
    model: Any, batch: PackedBatch, temperature: float, unknown: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs [M, T] of the batch's targets, and the full log-softmax [M, T, vocabulary], at ``temperature``.

    Ids in ``unknown`` [any] int64, which no engine samples, have no share in it. Goes through the model's own
    ``forward``, so that any causal LM of transformers works, sharded or not.
    """
    logits = batch.at_targets(model(**batch.inputs(), logits_to_keep=batch.num_logits).logits)
    logits = logits.float() / temperature
    if unknown is not None and len(unknown):
        # In place, on a tensor of our own. Not -inf: an entropy of it would be NaN; the probability is 0 all the same.
        logits.index_fill_(-1, unknown, torch.finfo(torch.float32).min)
    logprobs = torch.log_softmax(logits, dim=-1)
    return logprobs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1), logprobs
