"""Expectations under a posterior that has no closed form for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.base.useful import useful_probability

__all__ = ["SampledExpectations"]

# Joint draws. Standard error of a probability at most .5 / sqrt(128) = .044, of a gain at most .25 / sqrt(512) = .011.
_NUM_USEFUL_DRAWS = 128
_NUM_GAIN_DRAWS = 512


class SampledExpectations:
    """A base for posteriors: what ``Posterior`` expects, as means over the joint draws of the posterior's ``sample``.

    All group sizes, and all samples of a prompt, share their draws: so gains fall exactly.
    """

    __slots__ = ()

    @abstractmethod
    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        """[S, N] float64; a row is one joint draw."""

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator) -> FloatArray:
        """E[1 - g^G - (1 - g)^G] [K, N] for K group sizes."""
        draws = self.sample(_NUM_USEFUL_DRAWS, rng)
        return np.array([useful_probability(draws, size).mean(axis=0) for size in group_sizes])

    def expected_gains(self, max_samples: int, rng: np.random.Generator) -> FloatArray:
        """E[g (1 - g)^(j-1)] [N, J]."""
        rates = self.sample(_NUM_GAIN_DRAWS, rng)
        gains = np.empty((rates.shape[1], max_samples))
        failed_before = np.ones_like(rates)
        for j in range(max_samples):
            gains[:, j] = (rates * failed_before).mean(axis=0)
            failed_before *= 1.0 - rates
        return gains
