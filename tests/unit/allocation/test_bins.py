"""Bins of a score: the beta-binomial fit, the edges, and what they make of an informative score."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.allocation.bins import fit_beta, fit_bins
from gps_ray.base.greedy import allocate
from gps_ray.base.keyed_random import generator
from gps_ray.predictor.beta_posterior import BetaPosterior


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.5), (3.0, 2.0), (12.0, 4.0)])
def test_the_fit_finds_the_distribution_that_made_the_outcomes(a: float, b: float) -> None:
    rng = generator(0, "test")
    num_tried = rng.integers(8, 33, size=4000)
    num_right = rng.binomial(num_tried, rng.beta(a, b, size=4000))
    fitted_a, fitted_b = fit_beta(num_right, num_tried)
    np.testing.assert_allclose([fitted_a, fitted_b], [a, b], rtol=0.15)


@pytest.mark.parametrize("rate", [0, 1])
def test_a_one_sided_bin_stays_finite(rate: int) -> None:
    num_tried = np.full(50, 8)
    a, b = fit_beta(rate * num_tried, num_tried)
    gain = BetaPosterior(np.array([a]), np.array([b])).expected_gains(1)[0, 0]
    assert gain < 0.05 if rate == 0 else gain > 0.95


def test_bins_are_equally_filled_and_scores_outside_fall_into_the_outer_ones() -> None:
    rng = generator(0, "test")
    rates = rng.random(800)
    bins = fit_bins(rates, rng.binomial(16, rates), np.full(800, 16), num_bins=4)
    np.testing.assert_allclose(bins.edges, np.quantile(rates, [0.25, 0.5, 0.75]))
    means = bins.alpha / (bins.alpha + bins.beta)
    np.testing.assert_allclose(means, [0.125, 0.375, 0.625, 0.875], atol=0.05)
    gains = bins.gains(np.array([-9.0, 0.3, 9.0]), 5)
    np.testing.assert_allclose(gains, BetaPosterior(bins.alpha, bins.beta).expected_gains(5)[[0, 1, 3]])


def test_a_score_without_information_is_one_bin() -> None:
    bins = fit_bins(np.zeros(40), np.full(40, 4), np.full(40, 8))
    assert bins.edges.tolist() == []
    assert bins.gains(np.array([0.0, 1.0]), 2).shape == (2, 2)


def test_more_samples_go_to_prompts_that_are_challenging_but_solvable() -> None:
    rng = generator(0, "test")
    rates = rng.choice([0.001, 0.2, 0.99], size=900)
    bins = fit_bins(rates, rng.binomial(32, rates), np.full(900, 32), num_bins=12)
    samples = allocate(bins.gains(np.array([0.001, 0.2, 0.99]), 16), 18)
    assert samples[1] > samples[2] >= 1
    assert samples[1] > samples[0]
