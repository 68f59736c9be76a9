"""PPO's clipped value loss.

    L_it = 1/2 max((V_it - R_it)^2, (clip(V_it, Vold_it - c, Vold_it + c) - R_it)^2)

R is the target from ``gps_ray.learning.advantages.gae``, Vold the estimate before the update. Source: Schulman et al.,
arXiv 1506.02438, section 5 (regression to the returns within a trust region), in the form of the PPO code, see
Engstrom et al., arXiv 2005.12729, section 3, optimisation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["value_loss"]


def value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip: float) -> Tensor:
    """The loss of each token [M, T]; gradients flow through ``values`` only."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - targets) ** 2, (clipped - targets) ** 2)
