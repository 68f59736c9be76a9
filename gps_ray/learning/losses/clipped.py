"""PPO's clipped surrogate, token by token (GRPO, Dr.GRPO, DAPO, REINFORCE++, PPO).

    rho_it = exp(policy_it - old_it)
    L_it   = max(-A_it rho_it, -A_it clip(rho_it, 1 - low, 1 + high))

Sources: PPO, arXiv 1707.06347, equation 7; separate bounds (clip-higher), DAPO, arXiv 2503.14476, equation 8.

Assumes that the old log-probs belong to the distribution that was drawn from (same temperature), and that the rollouts
are at most a few updates old.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gps_ray.learning.losses.interface import ClipRange, PolicyTokens, TokenLoss, bounded_ratio

__all__ = ["clipped_loss", "clipped_surrogate"]


def clipped_loss(tokens: PolicyTokens, clip: ClipRange) -> TokenLoss:
    """The loss of each token."""
    return clipped_surrogate(bounded_ratio(tokens.log_ratio()), tokens.advantages, clip)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: ClipRange) -> TokenLoss:
    """L of any ratio that broadcasts to advantages [M, T]; clipped where the maximum took the clipped branch, hence no
    gradient."""
    clipped = clip.clip(ratio)
    weight = -advantages
    return TokenLoss(
        per_token=torch.maximum(weight * ratio, weight * clipped),
        is_clipped=(weight * clipped > weight * ratio).detach(),
    )
