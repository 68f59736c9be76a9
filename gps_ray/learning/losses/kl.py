"""Estimators of KL(policy || reference) per token, from the token that the policy drew.

With x = policy_it - reference_it::

    k1 = x                        unbiased, may be negative; as a loss its gradient has mean zero: for the reward
    k2 = x^2 / 2                  biased, but its gradient is that of the KL
    k3 = exp(-x) + x - 1          unbiased, never negative; x below -20 counts as -20 and has no gradient, for exp
                                  would overflow

Source: J. Schulman, "Approximating KL divergence", 2020; k3 in the loss: DeepSeekMath, arXiv 2402.03300, equation 4;
k1 in the reward: REINFORCE++, arXiv 2501.03262, equation 9.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gps_ray.learning.losses.interface import MAX_LOG_RATIO

__all__ = ["KlPenalty", "kl_estimate"]

KlPenalty = Literal["k1", "k2", "k3"]


def kl_estimate(policy: Tensor, reference: Tensor, mask: Tensor, kind: KlPenalty) -> Tensor:
    """[M, T], 0 off the mask; gradients flow through ``policy``."""
    gap = torch.where(mask, reference - policy, 0.0)
    if kind == "k1":
        return -gap
    if kind == "k2":
        return 0.5 * gap * gap
    gap = gap.clamp(max=MAX_LOG_RATIO)
    return gap.exp() - gap - 1.0
