"""Advantages normalised over the whole update: all mini-batches, all workers (REINFORCE++, PPO).

    A_it <- (A_it - mean A) / (std A + epsilon)       mean and population std over all response tokens

Source: REINFORCE++, arXiv 2501.03262, equation 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gps_ray.learning.advantages.group_relative import EPSILON

__all__ = ["batch_normalised"]


def batch_normalised(
    advantages: Sequence[Tensor], masks: Sequence[Tensor], sum_over_workers: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Each micro-batch's advantages [M, T], normalised over all of them; 0 off the mask.

    Two passes, in float64: a variance as a difference of sums would lose what equal rewards leave of it.
    """
    chosen = [a[m].double() for a, m in zip(advantages, masks, strict=True)]
    count, total = sum_over_workers(
        torch.tensor([float(sum(len(c) for c in chosen)), float(sum(c.sum() for c in chosen))], dtype=torch.float64)
    ).tolist()
    mean = total / max(count, 1.0)
    squares = torch.tensor(float(sum(((c - mean) ** 2).sum() for c in chosen)), dtype=torch.float64)
    std = (float(sum_over_workers(squares)) / max(count, 1.0)) ** 0.5
    return [
        torch.where(m, (a.double() - mean) / (std + EPSILON), 0.0).float()
        for a, m in zip(advantages, masks, strict=True)
    ]
