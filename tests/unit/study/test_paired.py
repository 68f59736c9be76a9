"""Rollouts-to-target: each definition on a curve small enough to read."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.study.paired import (
    Crossing,
    accuracy_within,
    first_crossing,
    paired_ratio,
    smoothed,
    target_accuracy,
)

UNIFORM = np.array([0.20, 0.26, 0.29, 0.35, 0.38, 0.35])
COST = np.array([0.0, 100.0, 200.0, 300.0, 400.0, 500.0])


def test_smoothing_begins_at_the_third_evaluation() -> None:
    assert smoothed(UNIFORM) == pytest.approx([0.25, 0.30, 0.34, 0.36])
    assert smoothed(UNIFORM[:2]) == pytest.approx([0.23])
    assert smoothed(UNIFORM[:1]) == pytest.approx([0.20])
    assert len(smoothed(UNIFORM[:0])) == 0


def test_the_target_is_the_mean_of_the_last_three() -> None:
    assert target_accuracy(UNIFORM) == pytest.approx(0.36)
    with pytest.raises(ValueError, match="at least one evaluation"):
        target_accuracy(np.zeros(0))


def test_the_baseline_reaches_its_own_target_whatever_the_rounding() -> None:
    for seed in range(200):
        curve = np.random.Generator(np.random.Philox(seed)).random(9) / 3
        assert not first_crossing(np.arange(9.0), curve, target_accuracy(curve)).censored


def test_first_crossing_is_the_first_even_if_the_curve_falls_again() -> None:
    accuracy = np.array([0.3, 0.3, 0.45, 0.6, 0.1, 0.0])
    assert first_crossing(COST, accuracy, 0.36) == Crossing(cost=300.0, censored=False)
    assert first_crossing(COST, accuracy, 0.35) == Crossing(cost=200.0, censored=False)


def test_one_lucky_evaluation_is_not_a_crossing() -> None:
    assert first_crossing(COST, np.array([0.2, 0.2, 0.5, 0.2, 0.2, 0.2]), 0.36) == Crossing(cost=500.0, censored=True)


def test_bad_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        first_crossing(COST[::-1], UNIFORM, 0.3)
    with pytest.raises(ValueError, match="E >= 1"):
        first_crossing(COST[:2], UNIFORM, 0.3)


def test_ratio_is_the_geometric_mean_of_the_pairs() -> None:
    ours = [Crossing(cost=50.0, censored=False), Crossing(cost=400.0, censored=True)]
    base = [Crossing(cost=100.0, censored=False), Crossing(cost=200.0, censored=False)]
    estimate = paired_ratio(ours, base)
    assert estimate.value == pytest.approx(1.0)  # sqrt(0.5 * 2)
    assert estimate.num_units == 2
    # logs -+ log 2: s = sqrt(2) log 2, half width t(1 degree) * log 2 = 12.7062047 * log 2
    assert estimate.low == pytest.approx(2**-12.7062047)
    assert estimate.high == pytest.approx(2**12.7062047)


def test_ratio_is_paired_not_pooled() -> None:
    """Halving the cost for every seed is a certain half, however much the seeds differ."""
    base = [Crossing(cost=c, censored=False) for c in (10.0, 100.0, 1000.0)]
    estimate = paired_ratio([Crossing(cost=b.cost / 2, censored=False) for b in base], base)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ratios_that_do_not_exist_are_refused() -> None:
    one, zero = Crossing(cost=1.0, censored=False), Crossing(cost=0.0, censored=False)
    with pytest.raises(ValueError, match="above 0"):
        paired_ratio([one], [zero])
    with pytest.raises(ValueError, match="as many costs"):
        paired_ratio([one], [one, one])


def test_accuracy_within_a_budget_is_that_of_the_last_evaluation_paid_for() -> None:
    assert accuracy_within(COST, UNIFORM, 500.0) == pytest.approx(0.36)
    assert accuracy_within(COST, UNIFORM, 499.0) == pytest.approx(0.34)
    assert accuracy_within(COST, UNIFORM, 200.0) == pytest.approx(0.25)
    # The first smoothed point needs three evaluations.
    assert accuracy_within(COST, UNIFORM, 199.0) is None
