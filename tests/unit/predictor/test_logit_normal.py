"""Logit-normal expectations against a much finer integral, and against draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import comb, expit

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.predictor.logit_normal import LogitNormalPosterior

LOCATIONS = np.array([-6.0, -2.0, 0.0, 0.3, 1.5, 7.0])


def _fine(location: float, std: float, function: object) -> FloatArray:
    """20,001 nodes over 10 standard deviations: what the rule under test has 31 for."""
    nodes = np.linspace(-10.0, 10.0, 20_001)
    weights = np.exp(-0.5 * nodes**2)
    values = function(expit(location + std * nodes))  # type: ignore[operator]
    return np.asarray((values * weights).sum() / weights.sum())


@pytest.mark.parametrize("std", [0.01, 0.5, 2.0, 4.0])
def test_expectations_agree_with_a_fine_integral(std: float) -> None:
    posterior = LogitNormalPosterior(LOCATIONS, np.full(len(LOCATIONS), std**2))
    expected = {
        "mean": lambda g: g,
        "second": lambda g: g**2,
        "useful": lambda g: 1 - g**8 - (1 - g) ** 8,
        "third_gain": lambda g: g * (1 - g) ** 2,
        "three_of_eight": lambda g: comb(8, 3) * g**3 * (1 - g) ** 5,
    }
    fine = {name: np.array([_fine(m, std, f) for m in LOCATIONS]) for name, f in expected.items()}
    np.testing.assert_allclose(posterior.mean(), fine["mean"], atol=2e-5)
    np.testing.assert_allclose(posterior.variance(), fine["second"] - fine["mean"] ** 2, atol=5e-5)
    np.testing.assert_allclose(posterior.expected_useful((8,))[0], fine["useful"], atol=5e-5)
    np.testing.assert_allclose(posterior.expected_gains(4)[:, 2], fine["third_gain"], atol=5e-5)
    likelihood = np.exp(posterior.log_likelihood(np.full(6, 3), np.full(6, 8)))
    # Its poles lie at the same distance but are of order 8: it is the first to suffer from few nodes.
    np.testing.assert_allclose(likelihood, fine["three_of_eight"], atol=5e-5 if std < 4 else 1e-3)


def test_draws_have_the_believed_moments() -> None:
    posterior = LogitNormalPosterior(LOCATIONS, np.linspace(0.2, 4.0, len(LOCATIONS)))
    draws = posterior.sample(40_000, generator(0, "test"))
    assert draws.shape == (40_000, len(LOCATIONS))
    np.testing.assert_allclose(draws.mean(axis=0), posterior.mean(), atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), posterior.variance(), atol=0.01)


def test_a_long_table_is_the_same_row_by_row() -> None:
    location = np.linspace(-3, 3, 70_000)
    posterior = LogitNormalPosterior(location, np.ones(70_000))
    alone = LogitNormalPosterior(location[69_990:], np.ones(10))
    np.testing.assert_allclose(posterior.mean()[69_990:], alone.mean(), rtol=1e-12)
    np.testing.assert_allclose(posterior.expected_gains(3)[69_990:], alone.expected_gains(3), rtol=1e-12)


def test_gains_of_all_samples_add_up_to_solving_it_at_least_once() -> None:
    posterior = LogitNormalPosterior(np.array([0.4]), np.array([1.5]))
    solved = 1.0 - _fine(0.4, np.sqrt(1.5), lambda g: (1 - g) ** 5)
    assert posterior.expected_gains(5).sum() == pytest.approx(float(solved), abs=1e-4)
