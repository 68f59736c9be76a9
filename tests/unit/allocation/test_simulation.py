"""What an allocation would have solved, against counting all subsets of recorded tries."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gps_ray.allocation.gains import rate_gains
from gps_ray.allocation.simulation import measure, pass_table
from gps_ray.base.errors import DataError
from gps_ray.base.greedy import equal_order, sample_order
from gps_ray.base.keyed_random import generator


def test_the_table_equals_counting_all_subsets() -> None:
    num_tried = 6
    table = pass_table(np.arange(7), np.full(7, num_tried), num_tried)
    for num_right in range(7):
        tries = [1] * num_right + [0] * (num_tried - num_right)
        for drawn in range(num_tried + 1):
            subsets = list(combinations(tries, drawn))
            share = sum(max(subset, default=0) for subset in subsets) / len(subsets)
            assert table[num_right, drawn] == pytest.approx(share, abs=1e-12)


def test_more_samples_than_recorded_tries_are_refused() -> None:
    with pytest.raises(DataError, match=r"up to 9 samples.*got a prompt with 8.*--maximum"):
        pass_table(np.array([1, 2]), np.array([16, 8]), 9)


def test_equal_against_itself_gains_and_saves_nothing() -> None:
    table = pass_table(np.array([1, 4, 8]), np.full(3, 8), 4)
    result = measure(equal_order(3, 12), equal_order(3, 12), table)
    assert result.pass_rate == pytest.approx(table[:, 4].mean())
    assert result.points_gained == 0
    assert result.samples_saved == 0


def test_a_hand_computed_comparison() -> None:
    """Two prompts, 4 tries each: one always right, one right once in four (pass: 1/4, 1/2, 3/4, 1)."""
    table = pass_table(np.array([4, 1]), np.array([4, 4]), 4)
    equal = equal_order(2, 4)
    better = measure(np.array([0, 1, 1, 1]), equal, table)
    assert better.pass_rate == pytest.approx((1 + 3 / 4) / 2)
    assert better.points_gained == pytest.approx(100 * (1 / 4) / 2)
    assert better.samples_saved == pytest.approx(1 / 4)  # three samples reach (1 + 1/2) / 2, equal needs all four
    worse = measure(np.array([1, 1, 1, 1]), equal, table)
    assert worse.pass_rate == pytest.approx(1 / 2)
    assert worse.points_gained == pytest.approx(-25)
    assert worse.samples_saved == pytest.approx(1 - 4 / 1)  # four samples for what equal has after one
    idle = measure(np.array([0, 0, 0, 0]), equal, table)
    assert (idle.points_gained, idle.samples_saved) == (pytest.approx(-25), 0)


def test_the_oracle_is_never_below_equal_allocation() -> None:
    rng = generator(0, "test")
    num_right = rng.binomial(64, rng.beta(0.6, 0.8, size=300))
    table = pass_table(num_right, np.full(300, 64), 32)
    for budget in (1, 2, 4, 8):
        oracle = sample_order(rate_gains(num_right / 64, 32), budget * 300)
        result = measure(oracle, equal_order(300, budget * 300), table)
        assert result.points_gained >= 0
        assert 0 <= result.samples_saved < 1
