"""From a trainer's rewards to what a selector counts: how many of a group's rollouts solved their prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gps_ray.base.errors import UsageError
from gps_ray.base.types import FloatArray, IntArray

__all__ = ["Solved", "SuccessRule", "count_successes"]

# Rewards [N] by the name of their function (NaN: it gave none) -> [N] 1 solved, 0 not, NaN no verdict.
SuccessRule = Callable[[Mapping[str, FloatArray]], ArrayLike]


@dataclass(frozen=True, slots=True)
class Solved:
    """A rollout has solved its prompt where the reward of the function named ``reward`` is ``at_least`` so much.

    Rollouts to which that function gave no reward have no verdict.
    """

    reward: str
    at_least: float = 1.0

    def __call__(self, rewards: Mapping[str, FloatArray]) -> FloatArray:
        if self.reward not in rewards:
            raise UsageError(
                f"success: no reward function is called {self.reward!r}; the trainer has {', '.join(rewards)}"
            )
        values = rewards[self.reward]
        verdicts: FloatArray = np.where(np.isnan(values), np.nan, values >= self.at_least)
        return verdicts


def count_successes(rule: SuccessRule, rewards: Mapping[str, FloatArray], group_size: int) -> tuple[IntArray, IntArray]:
    """num_right, num_tried, [N / group_size] each, of rollouts that stand group by group.

    Rollouts that no function rewarded were not tried, whatever the rule says of them. Raises UsageError where the rule
    returns anything but N values of 1, 0 and NaN.
    """
    num_rollouts = len(next(iter(rewards.values())))
    verdicts = np.array(rule(rewards), dtype=np.float64)
    if verdicts.shape != (num_rollouts,) or not np.isin(verdicts[~np.isnan(verdicts)], (0.0, 1.0)).all():
        raise UsageError(
            f"success: expected {num_rollouts} values of 1 (solved), 0 or NaN (no verdict), got shape "
            f"{verdicts.shape} with {np.unique(verdicts)[:5].tolist()}"
        )
    verdicts[np.isnan(np.stack(list(rewards.values()))).all(axis=0)] = np.nan
    groups = verdicts.reshape(-1, group_size)
    return np.nansum(groups, axis=1).astype(np.int64), (~np.isnan(groups)).sum(axis=1)
