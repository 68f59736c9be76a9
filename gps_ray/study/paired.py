"""What a selector bought, against a baseline: rollouts-to-target, paired by seed.

Definitions. The *smoothed* curve at evaluation i is the mean of evaluations i - 2, i - 1, i; it begins at the third.
The *target* is the baseline's mean over its last three evaluations, which is the last point of its smoothed curve, so
the baseline itself always reaches it. The *cost to target* is the cumulative cost (rollouts, tokens, CPU-seconds) at
the first evaluation whose smoothed value is at least the target: a cost that was really paid, nothing is
interpolated. A run that never gets there is *censored*: it counts with its whole budget, and is marked. Ratios are
paired by seed; their geometric mean has a 95 % Student-t interval on the log scale. The accuracy *at equal cost* is
the smoothed value at the last evaluation within a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.base.intervals import Estimate, mean_estimate
from gps_ray.base.types import FloatArray

__all__ = [
    "NUM_SMOOTHED",
    "Crossing",
    "accuracy_within",
    "first_crossing",
    "paired_ratio",
    "smoothed",
    "target_accuracy",
]

NUM_SMOOTHED = 3


def smoothed(values: FloatArray) -> FloatArray:
    """Mean of each evaluation and the two before it: [E] -> [max(E - 2, min(E, 1))].

    Fewer than three evaluations give one point, the mean of all there are; none give none.
    """
    window = min(NUM_SMOOTHED, len(values))
    if window == 0:
        return np.zeros(0)
    # Each mean is taken by itself: a running sum would let rounding decide whether a run meets its own target.
    return np.array([float(np.mean(values[i : i + window])) for i in range(len(values) - window + 1)])


def target_accuracy(baseline: FloatArray) -> float:
    """The baseline's mean over its last three evaluations [E]."""
    if len(baseline) == 0:
        raise ValueError("expected at least one evaluation of the baseline, got none")
    return float(smoothed(baseline)[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Cost to target. ``censored``: the target was never met, ``cost`` is the whole budget and a lower bound."""

    cost: float
    censored: bool


def first_crossing(cost: FloatArray, accuracy: FloatArray, target: float) -> Crossing:
    """Cost at the first evaluation whose smoothed accuracy reaches ``target``.

    cost [E] is the cumulative cost at each evaluation, ascending; accuracy [E] as measured, smoothed here.
    """
    if len(cost) != len(accuracy) or len(cost) == 0:
        raise ValueError(f"expected cost [E] and accuracy [E] with E >= 1, got {len(cost)} and {len(accuracy)}")
    if np.any(np.diff(cost) < 0):
        raise ValueError("expected cumulative costs in ascending order")
    curve = smoothed(accuracy)
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return Crossing(cost=float(cost[-1]), censored=True)
    return Crossing(cost=float(cost[len(cost) - len(curve) + int(reached[0])]), censored=False)


def accuracy_within(cost: FloatArray, accuracy: FloatArray, budget: float) -> float | None:
    """Smoothed accuracy at the last evaluation that cost no more than ``budget``; None where no smoothed one did.

    cost [E] is the cumulative cost at each evaluation, ascending; accuracy [E] as measured, smoothed here.
    """
    curve = smoothed(accuracy)
    reached = np.flatnonzero(cost[len(cost) - len(curve) :] <= budget)
    return float(curve[reached[-1]]) if len(reached) else None


def paired_ratio(costs: Sequence[Crossing], baseline: Sequence[Crossing]) -> Estimate:
    """``exp(mean_s log(cost_s / baseline_s))`` over seeds s; both in the same order of seeds, below 1 is cheaper.

    Geometric mean with its 95 % interval. A censored cost enters as its budget, which makes its ratio too small: more
    than a few censored pairs forbid a claim. One pair has no interval (0 to infinity).
    """
    if len(costs) != len(baseline) or not costs:
        raise ValueError(f"expected as many costs as baseline costs, at least one, got {len(costs)}, {len(baseline)}")
    if any(crossing.cost <= 0 for crossing in (*costs, *baseline)):
        raise ValueError("expected costs above 0: a target met before any rollout has no ratio; evaluate more often")
    logs = mean_estimate(np.log([c.cost for c in costs]) - np.log([b.cost for b in baseline]))
    return Estimate(
        value=float(np.exp(logs.value)),
        low=float(np.exp(logs.low)),
        high=float(np.exp(logs.high)),
        num_units=len(costs),
    )
