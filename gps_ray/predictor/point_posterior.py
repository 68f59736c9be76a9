"""A posterior without uncertainty, for predictors that give one number per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.base.useful import useful_probability
from gps_ray.predictor.sampled_expectations import SampledExpectations

__all__ = ["PointPosterior"]


@dataclass(frozen=True, slots=True)
class PointPosterior(SampledExpectations):
    """Success rates [N] float64 believed with certainty (``Posterior``)."""

    rates: FloatArray

    def mean(self) -> FloatArray:
        return self.rates

    def variance(self) -> FloatArray:
        return np.zeros_like(self.rates)

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        return np.tile(self.rates, (num_draws, 1))

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator | None = None) -> FloatArray:
        """P(0 < k < G) = 1 - g^G - (1 - g)^G [K, N]."""
        return np.array([useful_probability(self.rates, size) for size in group_sizes])
