"""Intervals against the textbook."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.intervals import json_estimate, mean_estimate


def test_student_interval_by_hand() -> None:
    # mean 2.5, s = 1.2909944, t(3 degrees, .975) = 3.1824463: half width 3.1824463 * 1.2909944 / 2
    estimate = mean_estimate(np.array([1.0, 2.0, 3.0, 4.0]))
    assert estimate.value == 2.5
    assert estimate.num_units == 4
    assert (estimate.low, estimate.high) == pytest.approx((2.5 - 2.0542603, 2.5 + 2.0542603))


def test_bounds_cut_the_interval() -> None:
    estimate = mean_estimate(np.array([0.0, 0.0, 1.0]), bounds=(0.0, 1.0))
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_one_value_bounds_nothing_and_none_is_refused() -> None:
    estimate = mean_estimate(np.array([0.3]), bounds=(0.0, 1.0))
    assert (estimate.value, estimate.low, estimate.high) == (0.3, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least one value"):
        mean_estimate(np.zeros(0))


def test_nothing_right_is_no_proof_of_nothing() -> None:
    """0 of 10: Clopper-Pearson's upper end is 1 - .025^(1/10) = .3085."""
    none, every = (mean_estimate(np.full(10, value), bounds=(0.0, 1.0)) for value in (0.0, 1.0))
    assert (none.low, none.high) == (0.0, pytest.approx(0.3084971))
    assert (every.low, every.high) == (pytest.approx(1 - 0.3084971), 1.0)


def test_an_estimate_for_json_has_no_infinity_and_skips_what_is_not_there() -> None:
    assert json_estimate([0.2, None, 0.4, float("nan")]) == mean_estimate(np.array([0.2, 0.4])).as_json()
    assert json_estimate([0.3]) == {"mean": 0.3, "low": None, "high": None}
    assert json_estimate([None]) == {"mean": None, "low": None, "high": None}
