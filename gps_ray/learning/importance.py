"""Truncated importance sampling: the policy that sampled is not quite the one that learns.

An engine computes other log-probs than the learner (kernels, precision), and rollouts may be some updates old. With
old_it the learner's own log-probs before the update and sampled_it the engine's::

    token      w_it = min(exp(old_it - sampled_it), C)
    sequence   w_i  = min(exp(sum_t old_it - sampled_it), C)

The weight multiplies the token's loss and carries no gradient; the loss's own ratio is then policy / old. Sources: Yao
et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025 (per token, C = 2); Ionides,
"Truncated importance sampling", 2008; the two ratios apart, decoupled PPO, arXiv 2110.00641, equation 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gps_ray.learning.losses.interface import MAX_LOG_RATIO

__all__ = ["ImportanceWeights", "importance_weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceWeights:
    """weights and untruncated [M, T], 1 off the mask; untruncated up to exp(MAX_LOG_RATIO)."""

    weights: Tensor
    untruncated: Tensor


def importance_weights(
    old: Tensor, sampled: Tensor, mask: Tensor, level: Literal["token", "sequence"], threshold: float
) -> ImportanceWeights:
    """Of log-probs and mask [M, T]; no gradients."""
    log_ratio = torch.where(mask, old - sampled, 0.0).detach()
    if level == "sequence":
        log_ratio = torch.where(mask, log_ratio.sum(1, keepdim=True), 0.0)
    untruncated = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    return ImportanceWeights(weights=untruncated.clamp(max=threshold), untruncated=untruncated)
