"""Advantages against the mean of the *other* rollouts of the prompt (RLOO).

    A_ij = r_ij - 1/(G_i - 1) sum_{k != j} r_ik  =  G_i/(G_i - 1) (r_ij - mean_k r_ik)

The baseline does not depend on rollout j, so the estimate stays unbiased. Source: Ahmadian et al., arXiv 2402.14740,
section 2.3 (RLOO); Kool, van Hoof, Welling 2019.
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.learning.advantages.group_relative import group_centred

__all__ = ["leave_one_out"]


def leave_one_out(rewards: FloatArray) -> FloatArray:
    """Advantages [G] float64 of a group's rewards [G]; 0 for a group of one, which has nothing to compare with."""
    size = np.size(rewards)
    return group_centred(rewards) * (size / max(size - 1, 1))
