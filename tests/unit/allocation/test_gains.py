"""Expected gains against integration, arithmetic and the closed form against draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution

from gps_ray.allocation.gains import beta_gains, expected_gains, rate_gains
from gps_ray.keyed_random import generator
from gps_ray.types import FloatArray


class _Betas:
    """A belief without a closed form of its own."""

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


def test_beta_gains_of_the_uniform_distribution() -> None:
    # Beta(1, 1): E[g (1 - g)^(j-1)] = B(2, j) = 1 / (j (j + 1)).
    np.testing.assert_allclose(beta_gains(np.ones(1), np.ones(1), 4), [[1 / 2, 1 / 6, 1 / 12, 1 / 20]])


@pytest.mark.parametrize(("a", "b"), [(0.3, 2.0), (4.0, 1.5), (20.0, 30.0)])
def test_beta_gains_equal_the_integral(a: float, b: float) -> None:
    gains = beta_gains(np.array([a]), np.array([b]), 6)[0]
    for j in range(1, 7):
        # As an expectation in g under Beta(a + 1, b): the density at 0 is then finite also for a < 1.
        integral, _ = quad(lambda g, j=j: (1 - g) ** (j - 1) * beta_distribution.pdf(g, a + 1, b), 0, 1, epsabs=1e-11)
        assert gains[j - 1] == pytest.approx(integral * a / (a + b), rel=1e-6)


def test_draws_agree_with_the_closed_form() -> None:
    alpha, beta = np.array([0.5, 2.0, 8.0]), np.array([3.0, 2.0, 1.0])
    drawn = expected_gains(_Betas(alpha, beta), 5, generator(0, "test"), num_draws=20_000)
    np.testing.assert_allclose(drawn, beta_gains(alpha, beta, 5), atol=0.01)
    assert (np.diff(drawn, axis=1) <= 0).all()


def test_a_belief_with_a_closed_form_is_asked_for_it() -> None:
    class Closed(_Betas):
        def expected_gains(self, max_samples: int) -> FloatArray:
            return beta_gains(self.alpha, self.beta, max_samples)

        def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
            raise AssertionError("no draws are needed")

    alpha, beta = np.array([0.5, 2.0]), np.array([3.0, 2.0])
    gains = expected_gains(Closed(alpha, beta), 4, generator(0, "test"))
    np.testing.assert_array_equal(gains, beta_gains(alpha, beta, 4))
