"""Closed forms of Beta posteriors against integration and draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution

from gps_ray.base.keyed_random import generator
from gps_ray.predictor.beta_posterior import BetaPosterior


def test_the_uniform_distribution_by_hand() -> None:
    uniform = BetaPosterior(np.ones(1), np.ones(1))
    assert uniform.mean().tolist() == [0.5]
    assert uniform.variance()[0] == pytest.approx(1 / 12)
    # E[1 - g^G - (1 - g)^G] = 1 - 2 / (G + 1), and nothing is useful in a group of one.
    assert uniform.expected_useful((8,))[0][0] == pytest.approx(7 / 9)
    assert uniform.expected_useful((1,))[0][0] == pytest.approx(0)
    # E[g (1 - g)^(j-1)] = B(2, j) = 1 / (j (j + 1)).
    np.testing.assert_allclose(uniform.expected_gains(4), [[1 / 2, 1 / 6, 1 / 12, 1 / 20]])


@pytest.mark.parametrize(("a", "b"), [(0.3, 2.0), (4.0, 1.5), (20.0, 30.0)])
def test_expectations_equal_their_integrals(a: float, b: float) -> None:
    posterior = BetaPosterior(np.array([a]), np.array([b]))

    def weighted_by_g(power: int) -> float:
        # Taken under Beta(a + 1, b), whose density is finite at 0 also where a < 1.
        value, _ = quad(lambda g: (1 - g) ** power * beta_distribution.pdf(g, a + 1, b), 0, 1, epsabs=1e-11)
        return float(value) * a / (a + b)

    for j in range(1, 6):
        assert posterior.expected_gains(6)[0, j - 1] == pytest.approx(weighted_by_g(j - 1), rel=1e-6)
    # 1 - (1 - g)^G - g^G telescopes into gains and a power of g.
    all_right, _ = quad(lambda g: g**3 * beta_distribution.pdf(g, a + 1, b), 0, 1, epsabs=1e-11)
    solved = sum(weighted_by_g(j) for j in range(4))
    assert posterior.expected_useful((4,))[0][0] == pytest.approx(solved - all_right * a / (a + b), rel=1e-6)


def test_draws_follow_the_posterior() -> None:
    posterior = BetaPosterior(np.array([0.5, 2.0, 8.0]), np.array([3.0, 2.0, 1.0]))
    draws = posterior.sample(20_000, generator(0, "test"))
    assert draws.shape == (20_000, 3)
    np.testing.assert_allclose(draws.mean(axis=0), posterior.mean(), atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), posterior.variance(), atol=0.005)
