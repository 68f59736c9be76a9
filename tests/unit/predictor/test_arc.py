"""Beliefs on the arc: against the exact posterior, and what a one-sided group may do to them."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.base.useful import useful_probability
from gps_ray.config import ArcusConfig
from gps_ray.predictor.arc import ArcPosterior, ArcPredictor
from gps_ray.predictor.recorded import outcome_batch
from tests.unit.predictor.test_fused_features import make_table

STILL = ArcusConfig(drift_variance=0.0, upward_drift=0.0)


def _exact(prior_variance: float, num_right: int, num_tried: int) -> tuple[float, float]:
    """Mean and variance of g under the truncated Gaussian prior on the arc and the binomial likelihood."""
    psi = np.linspace(0, np.pi / 2, 4001)
    rate = np.sin(psi) ** 2
    weight = np.exp(-((psi - np.pi / 4) ** 2) / (2 * prior_variance)) * rate**num_right
    weight *= (1 - rate) ** (num_tried - num_right)
    weight /= weight.sum()
    mean = float((weight * rate).sum())
    return mean, float((weight * (rate - mean) ** 2).sum())


@pytest.mark.parametrize("num_right", [0, 1, 4, 7, 8])
def test_one_group_gives_nearly_the_exact_posterior(num_right: int) -> None:
    predictor = ArcPredictor(make_table(4), STILL)
    predictor.observe(outcome_batch(1, np.array([2]), np.array([num_right]), np.array([8])))
    posterior = predictor.predict(np.array([2]), 2)
    mean, variance = _exact(STILL.prior_variance, num_right, 8)
    assert posterior.mean()[0] == pytest.approx(mean, abs=0.035)
    assert posterior.variance()[0] == pytest.approx(variance, rel=0.45)
    assert predictor.seen(np.arange(4)).tolist() == [False, False, True, False]


def test_groups_of_one_side_move_the_belief_ever_less() -> None:
    predictor = ArcPredictor(make_table(4), STILL)
    means: list[float] = []
    for step in range(6):
        means.append(float(predictor.predict(np.array([0]), step).mean()[0]))
        predictor.observe(outcome_batch(step, np.array([0]), np.array([0]), np.array([8])))
    falls = -np.diff(means)
    assert (falls > 0).all()
    assert falls[0] > 4 * falls[-1]
    # After 40 wrong responses in a row one useful group is still believed.
    predictor.observe(outcome_batch(7, np.array([0]), np.array([6]), np.array([8])))
    assert predictor.predict(np.array([0]), 8).mean()[0] > 2 * means[-1]


def test_what_is_not_seen_drifts_upwards_and_grows_uncertain() -> None:
    predictor = ArcPredictor(make_table(4), ArcusConfig(drift_variance=0.01, upward_drift=0.05, prior_variance=0.15))
    predictor.observe(outcome_batch(1, np.array([0]), np.array([2]), np.array([8])))
    first = predictor.predict(np.array([0]), 2)
    for step in range(2, 5):
        predictor.observe(outcome_batch(step, np.array([1]), np.array([2]), np.array([8])))
    later = predictor.predict(np.array([0]), 5)
    assert later.mean()[0] > first.mean()[0] + 0.05
    assert later.variance()[0] > first.variance()[0]


def test_closed_expectations_are_those_of_its_draws() -> None:
    posterior = ArcPosterior(np.array([0.05, 0.7, 1.5]), np.array([0.02, 0.1, 0.2]))
    draws = posterior.sample(40_000, generator(0, "arc"))

    def agree(found: FloatArray, expected: FloatArray) -> None:
        np.testing.assert_allclose(found, expected, atol=0.01)

    agree(posterior.mean(), draws.mean(axis=0))
    agree(posterior.variance(), draws.var(axis=0))
    agree(posterior.expected_useful((4, 8))[1], useful_probability(draws, 8).mean(axis=0))
    agree(posterior.expected_gains(3)[:, 2], (draws * (1 - draws) ** 2).mean(axis=0))


def test_prompts_of_one_belief_are_ties() -> None:
    mean = ArcPosterior(np.full(1001, 0.7), np.full(1001, 0.11)).mean()
    np.testing.assert_array_equal(mean, mean[0])


def test_a_state_of_another_pool_is_refused() -> None:
    predictor = ArcPredictor(make_table(4), STILL)
    with pytest.raises(CheckpointError, match="beliefs of 4 prompts, got 5"):
        predictor.load_state(ArcPredictor(make_table(5), STILL).state())
