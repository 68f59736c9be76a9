"""Acquisitions: from a belief about success rates to one score per candidate.

An acquisition sees only the predictive distribution, so that any of them goes with any predictor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gps_ray.predictor.interface import SuccessRateDistribution
from gps_ray.types import FloatArray

__all__ = ["ACQUISITIONS", "NUM_DRAWS", "Acquisition", "nearest_half", "useful_group", "useful_probability"]

# (belief about N prompts, group size G, keyed generator) -> scores [N] float64, higher is better.
Acquisition = Callable[[SuccessRateDistribution, int, np.random.Generator], FloatArray]

# Joint draws where an expectation has no closed form: standard error at most .5 / sqrt(128) = .044 per prompt.
NUM_DRAWS = 128


def useful_probability(rate: FloatArray, group_size: int) -> FloatArray:
    """P(0 < k < G) = 1 - g^G - (1 - g)^G for success rates g of any shape: the group carries a gradient."""
    return 1.0 - rate**group_size - (1.0 - rate) ** group_size


def nearest_half(belief: SuccessRateDistribution, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = -(E[g] - 1/2)^2 (GPS, arXiv 2602.01970): the mean alone, blind to uncertainty."""
    score: FloatArray = -((belief.mean() - 0.5) ** 2)
    return score


def useful_group(belief: SuccessRateDistribution, group_size: int, rng: np.random.Generator) -> FloatArray:
    """u = E[1 - g^G - (1 - g)^G] under the whole belief: the expected probability of a useful group.

    Taken from the belief's own ``expected_useful(group_size)`` [N] where it has that method (a closed form), else as
    the mean over ``NUM_DRAWS`` joint draws of ``rng``.
    """
    closed_form = getattr(belief, "expected_useful", None)
    if closed_form is not None:
        return np.asarray(closed_form(group_size), dtype=np.float64)
    score: FloatArray = useful_probability(belief.sample(NUM_DRAWS, rng), group_size).mean(axis=0)
    return score


ACQUISITIONS: dict[str, Acquisition] = {
    "nearest_half": nearest_half,
    "useful_group": useful_group,
}
