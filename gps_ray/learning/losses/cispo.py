"""CISPO: the importance weight is clipped, never the gradient.

    L_it = - sg(clip(rho_it, 1 - low, 1 + high)) A_it policy_it        rho_it = exp(policy_it - old_it)

with sg = no gradient. Every token keeps its share of the gradient; a rare one is bounded instead of dropped. Source:
MiniMax-M1, arXiv 2506.13585, equations 4 and 5. The paper sets no lower bound and leaves the upper one to tuning;
the default here, a weight of at most 5, is that of ScaleRL, arXiv 2510.13786.
"""

from __future__ import annotations

import torch

from gps_ray.learning.losses.interface import ClipRange, PolicyTokens, TokenLoss

__all__ = ["cispo_loss"]


def cispo_loss(tokens: PolicyTokens, clip: ClipRange) -> TokenLoss:
    """The loss of each token; "clipped" where the weight was cut."""
    ratio = tokens.log_ratio().detach().exp()
    weight = clip.clip(ratio)
    policy = torch.where(tokens.mask, tokens.policy, 0.0)
    return TokenLoss(per_token=-weight * tokens.advantages * policy, is_clipped=weight != ratio)
