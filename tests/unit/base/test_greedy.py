"""The greedy allocation against brute force, its bounds and its exact total."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.greedy import allocate, equal_order, sample_order
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.predictor.beta_posterior import BetaPosterior


def _falling_gains(seed: int, num_prompts: int, maximum: int) -> FloatArray:
    draws = generator(seed, "test/gains").random((num_prompts, maximum))
    gains: FloatArray = np.sort(draws, axis=1)[:, ::-1]
    return gains


def _value(gains: FloatArray, num_samples: IntArray | tuple[int, ...]) -> float:
    return sum(float(gains[i, :count].sum()) for i, count in enumerate(num_samples))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("minimum", [0, 1])
def test_greedy_equals_brute_force(seed: int, minimum: int) -> None:
    num_prompts, maximum = 4, 4
    gains = _falling_gains(seed, num_prompts, maximum)
    for total in range(num_prompts * minimum, num_prompts * maximum + 1):
        best = max(
            _value(gains, counts)
            for counts in product(range(minimum, maximum + 1), repeat=num_prompts)
            if sum(counts) == total
        )
        chosen = allocate(gains, total, minimum)
        assert chosen.sum() == total
        assert chosen.min() >= minimum
        assert chosen.max() <= maximum
        assert _value(gains, chosen) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("total", [0, 1, 999, 4001, 6400])
def test_the_total_is_kept_exactly(total: int) -> None:
    rng = generator(0, "test")
    gains = BetaPosterior(rng.gamma(1.0, size=400) + 0.01, rng.gamma(2.0, size=400) + 0.01).expected_gains(16)
    assert allocate(gains, total).sum() == total


def test_every_beginning_of_the_order_is_the_smaller_allocation() -> None:
    gains = _falling_gains(1, 6, 5)
    order = sample_order(gains, 25, minimum=1)
    for total in range(6, 26):
        np.testing.assert_array_equal(np.bincount(order[:total], minlength=6), allocate(gains, total, minimum=1))


def test_equal_gains_go_to_the_lowest_prompt_first() -> None:
    assert sample_order(np.full((3, 2), 0.5), 4).tolist() == [0, 0, 1, 1]
    assert equal_order(3, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_no_prompts_and_no_samples() -> None:
    assert allocate(np.zeros((0, 4)), 0).tolist() == []
    assert allocate(np.zeros((3, 4)), 0).tolist() == [0, 0, 0]
    assert allocate(np.zeros((3, 1)), 3, minimum=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("total", "minimum"), [(2, 1), (13, 0), (-1, 0), (3, 5)])
def test_a_budget_that_cannot_be_kept_is_refused(total: int, minimum: int) -> None:
    with pytest.raises(ConfigError, match="change"):
        allocate(_falling_gains(0, 3, 4), total, minimum)


def test_rising_gains_are_refused() -> None:
    with pytest.raises(ValueError, match="rising"):
        allocate(np.array([[0.1, 0.2]]), 1)
