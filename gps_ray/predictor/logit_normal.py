"""Success rates whose logits are Gaussian: g = sigmoid(f), f ~ N(location, variance).

Expectations over f by the trapezoid rule on location +- 5 standard deviations: for a sigmoid under a Gaussian its
error falls off exponentially in 1 / (spacing * std). With 31 nodes it is below 1e-6 for E[g] and 1e-5 for groups of 8
up to a std of 4; the likelihood of a useful group of 8 is off by up to 1e-6, 4e-5, 6e-4 at a std of 2, 3, 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln, log_expit, logsumexp

from gps_ray.base.types import FloatArray, IntArray
from gps_ray.base.useful import useful_probability

__all__ = ["LogitNormalPosterior", "expectation"]

_NODES = np.linspace(-5.0, 5.0, 31)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()

# Rows of a quadrature table at a time, to bound its memory.
_ROWS_AT_ONCE = 65_536


def expectation(location: FloatArray, variance: FloatArray, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """E[function(sigmoid(f))] [N] under f ~ N(location, variance), both [N]; ``function`` works elementwise."""
    result = np.empty(len(location))
    std = np.sqrt(variance)
    for start in range(0, len(location), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        result[part] = function(expit(location[part, None] + std[part, None] * _NODES)) @ _WEIGHTS
    return result


@dataclass(frozen=True, slots=True)
class LogitNormalPosterior:
    """location, variance [N] of the logits (``Posterior``).

    ``draw_logits(num_draws, rng)`` gives joint draws [S, N] of the logits; without it the prompts are independent.
    ``yields`` [N]: what a useful group of each prompt teaches, relative to the pool's mean; None where nobody asked.
    """

    location: FloatArray
    logit_variance: FloatArray
    draw_logits: Callable[[int, np.random.Generator], FloatArray] | None = None
    yields: FloatArray | None = None

    def mean(self) -> FloatArray:
        return expectation(self.location, self.logit_variance, lambda rate: rate)

    def variance(self) -> FloatArray:
        second = expectation(self.location, self.logit_variance, np.square)
        return np.maximum(second - self.mean() ** 2, 0.0)

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        if self.draw_logits is not None:
            logits = self.draw_logits(num_draws, rng)
        else:
            noise = rng.standard_normal((num_draws, len(self.location)))
            logits = self.location + np.sqrt(self.logit_variance) * noise
        rates: FloatArray = expit(logits)
        return rates

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator | None = None) -> FloatArray:
        """E[1 - g^G - (1 - g)^G] [K, N]: the probability that a group of G is neither all right nor all wrong."""

        def useful(size: int) -> FloatArray:
            return expectation(self.location, self.logit_variance, lambda rate: useful_probability(rate, size))

        return np.array([useful(size) for size in group_sizes])

    def log_likelihood(self, num_right: IntArray, num_tried: IntArray) -> FloatArray:
        """log E[Binomial(k | n, g)] [N], each prompt by itself, for k of n right."""
        logits = self.location[:, None] + np.sqrt(self.logit_variance)[:, None] * _NODES
        wrong = num_tried - num_right
        log_choose = gammaln(num_tried + 1.0) - gammaln(num_right + 1.0) - gammaln(wrong + 1.0)
        terms = num_right[:, None] * log_expit(logits) + wrong[:, None] * log_expit(-logits)
        total: FloatArray = log_choose + logsumexp(terms, axis=1, b=_WEIGHTS)
        return total

    def expected_gains(self, max_samples: int, rng: np.random.Generator | None = None) -> FloatArray:
        """E[g (1 - g)^(j-1)] [N, J]: what the j-th sample of a prompt adds."""
        gains = np.empty((len(self.location), max_samples))
        for start in range(0, len(self.location), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rate = expit(self.location[part, None] + np.sqrt(self.logit_variance[part, None]) * _NODES)
            gain = rate.copy()
            for j in range(max_samples):
                gains[part, j] = gain @ _WEIGHTS
                gain *= 1.0 - rate
        return gains
