"""GRPO's group-normalised advantages.

For group i with rewards r_i1 .. r_iG_i, over the rollouts that have a verdict::

    A_ij = (r_ij - mean_j r_ij) / (std_j r_ij + epsilon)

with the population standard deviation. Source: DeepSeekMath, arXiv 2402.03300, section 4.1.2 (outcome supervision).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.types import BoolArray, FloatArray, Rollout, RolloutStatus

__all__ = ["EPSILON", "GroupAdvantages", "group_advantages", "rollouts_with_verdict"]

EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAdvantages:
    """advantages: one [G_i] float32 per group (groups may be ragged); has_gradient [groups] bool: rewards differ."""

    advantages: tuple[FloatArray, ...]
    has_gradient: BoolArray

    @property
    def num_zero_variance(self) -> int:
        """Groups whose rewards are all equal (also: fewer than two rollouts); their advantages are exactly 0."""
        return int(np.count_nonzero(~self.has_gradient))


def group_advantages(rewards: Sequence[FloatArray]) -> GroupAdvantages:
    """Advantages of each group's rewards [G_i]."""
    advantages: list[FloatArray] = []
    has_gradient = np.zeros(len(rewards), dtype=np.bool_)
    for row, group in enumerate(rewards):
        values = np.asarray(group, dtype=np.float64)
        # Compared exactly, not by a standard deviation that rounding can lift off zero.
        if values.size < 2 or bool((values == values[0]).all()):
            advantages.append(np.zeros(values.size, dtype=np.float32))
            continue
        has_gradient[row] = True
        advantages.append(((values - values.mean()) / (values.std() + EPSILON)).astype(np.float32))
    return GroupAdvantages(advantages=tuple(advantages), has_gradient=has_gradient)


def rollouts_with_verdict(group: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts that can be learnt from: a failed one has no reward, and is never taken for a zero."""
    return [rollout for rollout in group if rollout.status != RolloutStatus.FAILED]
