"""Advantages against the mean of a prompt's own group (GRPO, Dr.GRPO).

For group i with rewards r_i1 .. r_iG_i, over the rollouts that have a verdict::

    normalised   A_ij = (r_ij - mean_j r_ij) / (max(std_j r_ij, min_std) + epsilon)
    centred      A_ij =  r_ij - mean_j r_ij

with the population standard deviation. Sources: DeepSeekMath, arXiv 2402.03300, section 4.1.2 (outcome supervision);
without the division, which favours prompts of little variance, Dr.GRPO, arXiv 2503.20783, section 3.2.

The floor ``min_std`` is ours: without it the division makes advantages of full size from a spread of any size, so that
a tiny shaping (1 - 1e-4 * length on responses that are all right) teaches as much as right and wrong. Rewards of 0 and
1 have a spread of at least sqrt(G - 1) / G: a floor of .01 touches none of them up to groups of 9,998.
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import FloatArray

__all__ = ["EPSILON", "all_equal", "group_centred", "group_normalised"]

EPSILON = 1e-6


def all_equal(rewards: FloatArray) -> bool:
    """Are a group's rewards all the same (also: fewer than two rollouts)? Compared exactly, not by a standard
    deviation that rounding can lift off zero."""
    return rewards.size < 2 or bool((rewards == rewards[0]).all())


def group_centred(rewards: FloatArray) -> FloatArray:
    """Advantages [G] float64 of a group's rewards [G]; exactly 0 where the rewards are all equal."""
    values = np.asarray(rewards, dtype=np.float64)
    return np.zeros(values.size) if all_equal(values) else values - values.mean()


def group_normalised(rewards: FloatArray, min_std: float = 0.0) -> FloatArray:
    """Advantages [G] float64 of a group's rewards [G]; exactly 0 where the rewards are all equal."""
    values = np.asarray(rewards, dtype=np.float64)
    return group_centred(values) / (max(values.std(), min_std) + EPSILON) if values.size else values
