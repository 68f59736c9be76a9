"""Discounted returns per token, the advantages of REINFORCE++ before its normalisation.

    R_t = sum_{i >= t} gamma^(i - t) r_i

With the task's reward r on the last token and -beta KL_i on every token this is, at gamma = 1, equation 8 of
REINFORCE++ (arXiv 2501.03262): A_t = r - beta sum_{i >= t} KL_i. Its normalisation over the global batch, equation 10,
is ``gps_ray.learning.advantages.batch_normalised``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gps_ray.learning.advantages.gae import generalised_advantages

__all__ = ["discounted_returns"]


def discounted_returns(token_rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Returns [M, T] of token_rewards [M, T]; the response tokens of a row (mask) stand together. 0 elsewhere.

    They are the generalised advantages without a value and with lambda = 1.
    """
    no_values = torch.zeros_like(token_rewards)
    return generalised_advantages(token_rewards, no_values, mask, gamma=gamma, lam=1.0)[0]
