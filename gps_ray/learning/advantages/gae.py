"""Generalised advantage estimation over the tokens of a response (PPO).

With V_t the value before token t and V = 0 after the last one::

    delta_t = r_t + gamma V_{t+1} - V_t
    A_t     = delta_t + gamma lambda A_{t+1}
    target of V_t:  A_t + V_t

Source: Schulman et al., arXiv 1506.02438, equation 16; as PPO uses it, arXiv 1707.06347, equations 11 and 12.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["generalised_advantages"]


def generalised_advantages(
    token_rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets, both [M, T], of token_rewards and values [M, T]; the response tokens of a row
    (mask) stand together. 0 elsewhere."""
    advantages = torch.zeros_like(token_rewards)
    following = torch.zeros_like(token_rewards[:, 0])
    next_value = torch.zeros_like(following)
    for k in range(token_rewards.shape[1] - 1, -1, -1):
        delta = token_rewards[:, k] + gamma * next_value - values[:, k]
        following = torch.where(mask[:, k], delta + gamma * lam * following, 0.0)
        next_value = torch.where(mask[:, k], values[:, k], 0.0)
        advantages[:, k] = following
    return advantages, torch.where(mask, advantages + values, 0.0)
