"""A belief without uncertainty, for predictors that give one number per prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.base.types import FloatArray

__all__ = ["PointBelief"]


@dataclass(frozen=True, slots=True)
class PointBelief:
    """Success rates [N] float64 believed with certainty (``SuccessRateDistribution``)."""

    rates: FloatArray

    def mean(self) -> FloatArray:
        return self.rates

    def variance(self) -> FloatArray:
        return np.zeros_like(self.rates)

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        return np.tile(self.rates, (num_draws, 1))

    def expected_useful(self, group_size: int) -> FloatArray:
        """P(0 < k < G) = 1 - g^G - (1 - g)^G."""
        useful: FloatArray = 1.0 - self.rates**group_size - (1.0 - self.rates) ** group_size
        return useful
