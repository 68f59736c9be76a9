"""Expected gains against arithmetic, and the closed form against draws."""

from __future__ import annotations

import numpy as np

from gps_ray.allocation.gains import rate_gains
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.predictor.beta_posterior import BetaPosterior
from gps_ray.predictor.sampled_expectations import SampledExpectations


class _Betas(SampledExpectations):
    """A posterior without a closed form of its own."""

    def __init__(self, alpha: FloatArray, beta: FloatArray) -> None:
        self.alpha, self.beta = alpha, beta

    def mean(self) -> FloatArray:
        return self.alpha / (self.alpha + self.beta)

    def variance(self) -> FloatArray:
        total = self.alpha + self.beta
        return self.alpha * self.beta / total**2 / (total + 1)

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        return rng.beta(self.alpha, self.beta, size=(num_draws, len(self.alpha)))


def test_a_known_rate_gains_what_arithmetic_says() -> None:
    gains = rate_gains(np.array([0.5, 0.0, 1.0, 0.2]), 3)
    np.testing.assert_allclose(gains, [[0.5, 0.25, 0.125], [0, 0, 0], [1, 0, 0], [0.2, 0.16, 0.128]])


def test_draws_agree_with_the_closed_form() -> None:
    alpha, beta = np.array([0.5, 2.0, 8.0]), np.array([3.0, 2.0, 1.0])
    drawn = _Betas(alpha, beta).expected_gains(5, generator(0, "test"))
    np.testing.assert_allclose(drawn, BetaPosterior(alpha, beta).expected_gains(5), atol=0.03)
    assert (np.diff(drawn, axis=1) <= 0).all()
