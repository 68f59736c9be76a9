"""Independent Beta posteriors of success rates, with the expectations that have a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from gps_ray.base.types import FloatArray

__all__ = ["BetaPosterior"]


@dataclass(frozen=True, slots=True)
class BetaPosterior:
    """g_i ~ Beta(alpha_i, beta_i), alpha and beta [N] float64 > 0 (``Posterior``)."""

    alpha: FloatArray
    beta: FloatArray

    def mean(self) -> FloatArray:
        """a / (a + b)."""
        mean: FloatArray = self.alpha / (self.alpha + self.beta)
        return mean

    def variance(self) -> FloatArray:
        """a b / ((a + b)^2 (a + b + 1))."""
        total = self.alpha + self.beta
        variance: FloatArray = self.alpha * self.beta / (total**2 * (total + 1.0))
        return variance

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        return rng.beta(self.alpha, self.beta, size=(num_draws, len(self.alpha)))

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator | None = None) -> FloatArray:
        """E[1 - g^G - (1 - g)^G] = 1 - (B(a + G, b) + B(a, b + G)) / B(a, b) [K, N]."""
        none = betaln(self.alpha, self.beta)

        def useful(size: int) -> FloatArray:
            all_right = np.exp(betaln(self.alpha + size, self.beta) - none)
            all_wrong = np.exp(betaln(self.alpha, self.beta + size) - none)
            return np.asarray(1.0 - all_right - all_wrong)

        return np.array([useful(size) for size in group_sizes])

    def expected_gains(self, max_samples: int, rng: np.random.Generator | None = None) -> FloatArray:
        """E[g (1 - g)^(j-1)] = B(a + 1, b + j - 1) / B(a, b) [N, J]: what the j-th sample of a prompt adds."""
        alpha, beta = self.alpha[:, None], self.beta[:, None]
        gains: FloatArray = np.exp(betaln(alpha + 1.0, beta + np.arange(max_samples)) - betaln(alpha, beta))
        return gains
