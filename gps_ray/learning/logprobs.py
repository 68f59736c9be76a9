"""The one forward pass that RL, supervised training and the probe share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gps_ray.learning.packing import PackedBatch

__all__ = ["token_logprobs"]


def token_logprobs(model: Any, batch: PackedBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs [M, K] of the batch's targets, and the full log-softmax [M, K, vocabulary], at ``temperature``.

    Goes through the model's own ``forward``, so that any causal LM of transformers works, sharded or not.
    """
    logits = model(input_ids=batch.tokens, logits_to_keep=batch.num_logits, use_cache=False).logits
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    return logprobs.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1), logprobs
