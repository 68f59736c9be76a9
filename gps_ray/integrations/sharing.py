"""How many samples each prompt gets, at a fixed total: at test time (best of n) and in training (useful groups)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gps_ray.base.errors import UsageError, one_line
from gps_ray.base.greedy import allocate as greedy_allocation
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import IntArray
from gps_ray.integrations.prompts import whole_number
from gps_ray.integrations.selector import Prediction
from gps_ray.predictor.interface import Posterior
from gps_ray.predictor.point_posterior import PointPosterior
from gps_ray.selection.group_sizes import group_sizes as shared_out

__all__ = ["allocate", "group_sizes"]


def allocate(
    expected: Prediction | ArrayLike, total: int, *, minimum: int = 0, maximum: int = 64, seed: int = 0
) -> IntArray:
    """num_samples [N] int64 with sum ``total``, each between ``minimum`` and ``maximum``: the most prompts solved by
    the best of their samples, as expected.

    ``expected``: a ``Prediction``, whose uncertainty counts, or success rates [N] taken for certain. ``seed`` is of the
    draws where a posterior has no closed form. Raises UsageError and ConfigError.
    """
    total = whole_number(total, "allocate: total")
    minimum, maximum = whole_number(minimum, "allocate: minimum"), whole_number(maximum, "allocate: maximum")
    gains = _posterior(expected, "allocate").expected_gains(maximum, generator(seed, "library/allocate"))
    return greedy_allocation(gains, total, minimum)


def group_sizes(
    expected: Prediction | ArrayLike, total: int, *, minimum: int = 2, maximum: int = 64, seed: int = 0
) -> IntArray:
    """num_rollouts [N] int32 with sum ``total``, each between ``minimum`` (at least 2) and ``maximum``: the most useful
    groups, as expected. Arguments as for ``allocate``."""
    total = whole_number(total, "group_sizes: total")
    minimum, maximum = whole_number(minimum, "group_sizes: minimum"), whole_number(maximum, "group_sizes: maximum")
    if not 2 <= minimum <= maximum:
        raise UsageError(f"group_sizes: expected 2 <= minimum <= maximum, got {minimum} and {maximum}")
    posterior = _posterior(expected, "group_sizes")
    return shared_out(posterior, total, minimum, maximum, generator(seed, "library/group_sizes"))


def _posterior(expected: Prediction | ArrayLike, what: str) -> Posterior:
    if isinstance(expected, Prediction):
        return expected.posterior
    wanted = f"{what}: expected a Prediction or success rates [N] between 0 and 1"
    try:
        rates = np.asarray(expected, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{wanted}, got {one_line(error)}") from error
    outside = rates[~((rates >= 0) & (rates <= 1))]
    if rates.ndim != 1 or outside.size:
        got = f"shape {rates.shape}" if rates.ndim != 1 else f"{outside[0]:g}"
        raise UsageError(f"{wanted}, got {got}")
    return PointPosterior(rates)
