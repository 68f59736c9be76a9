"""Acquisitions against closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import betaln

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.base.useful import useful_probability
from gps_ray.predictor.point_posterior import PointPosterior
from gps_ray.predictor.sampled_expectations import SampledExpectations
from gps_ray.selection.acquisition import ACQUISITIONS, nearest_half, sampled, useful_group


class BetaPosterior(SampledExpectations):
    """Independent Beta(a, b) per prompt."""

    def __init__(self, a: list[float], b: list[float]) -> None:
        self.a, self.b = np.array(a), np.array(b)

    def mean(self) -> FloatArray:
        return self.a / (self.a + self.b)

    def variance(self) -> FloatArray:
        return self.mean() * (1 - self.mean()) / (self.a + self.b + 1)

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        return rng.beta(self.a, self.b, size=(num_draws, len(self.a)))


class ClosedPosterior(BetaPosterior):
    """E[1 - g^G - (1-g)^G] = 1 - B(a+G, b)/B(a, b) - B(a, b+G)/B(a, b)."""

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator | None = None) -> FloatArray:
        norm = betaln(self.a, self.b)
        all_right = np.array([np.exp(betaln(self.a + size, self.b) - norm) for size in group_sizes])
        return 1 - all_right - np.array([np.exp(betaln(self.a, self.b + size) - norm) for size in group_sizes])


# Half certain, half unknown, mostly wrong, sure to be wrong.
A, B = [50.0, 0.3, 1.0, 0.01], [50.0, 0.3, 7.0, 40.0]


def test_nearest_half_by_hand_and_blind_to_uncertainty() -> None:
    scores = nearest_half(BetaPosterior(A, B), 8, generator(0, "test"))
    np.testing.assert_allclose(scores, [0, 0, -(0.375**2), -((0.01 / 40.01 - 0.5) ** 2)])


def test_useful_probability_is_the_chance_of_a_mixed_group() -> None:
    rng = generator(0, "test")
    rates = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    num_right = rng.binomial(4, rates, size=(100_000, 5))
    mixed = ((num_right > 0) & (num_right < 4)).mean(axis=0)
    np.testing.assert_allclose(useful_probability(rates, 4), mixed, atol=0.006)


def test_useful_group_takes_the_closed_form_and_else_comes_close_to_it() -> None:
    exact = useful_group(ClosedPosterior(A, B), 8, generator(0, "test"))
    np.testing.assert_array_equal(exact, ClosedPosterior(A, B).expected_useful((8,))[0])
    drawn = useful_group(BetaPosterior(A, B), 8, generator(0, "test"))
    np.testing.assert_allclose(drawn, exact, atol=0.1)
    assert np.argsort(-drawn).tolist() == np.argsort(-exact).tolist()
    assert exact[0] > exact[1], "the same mean, but the unknown prompt is often all right or all wrong"


def _best(exponent: float, num: int, step: int) -> list[int]:
    scores = sampled(useful_group, exponent)(ClosedPosterior(A, B), 8, generator(0, "test", step))
    return np.argsort(-scores)[:num].tolist()


def test_sampled_prompts_are_drawn_by_a_power_of_their_score() -> None:
    weights = ClosedPosterior(A, B).expected_useful((8,))[0] ** 2
    expected = weights / weights.sum()
    firsts = [_best(2.0, 2, step) for step in range(4000)]
    shares = np.bincount([first for first, _ in firsts], minlength=4) / 4000
    np.testing.assert_allclose(shares, expected, atol=0.03)
    # Without replacement: after prompt 0 the second is drawn from the others.
    seconds = np.bincount([second for first, second in firsts if first == 0], minlength=4)
    np.testing.assert_allclose(seconds / seconds.sum(), np.r_[0, expected[1:]] / (1 - expected[0]), atol=0.04)


def test_a_large_exponent_ranks_and_a_score_of_zero_comes_last() -> None:
    by_rank = np.argsort(-ClosedPosterior(A, B).expected_useful((8,))[0]).tolist()
    assert _best(1e6, 4, 0) == by_rank

    def certain(posterior: object, group_size: int, rng: np.random.Generator) -> FloatArray:
        return np.array([0.0, 0.5, 0.0, 0.5])

    scores = sampled(certain, 4.0)(BetaPosterior(A, B), 8, generator(0, "test"))
    assert np.isfinite(scores).all()
    assert set(np.argsort(-scores)[:2]) == {1, 3}


def test_negative_scores_cannot_be_drawn_by() -> None:
    with pytest.raises(ConfigError, match=r"selection\.sampling_exponent: .* set selection\.acquisition=useful_group"):
        sampled(nearest_half, 4.0)(BetaPosterior(A, B), 8, generator(0, "test"))


class _Followed(BetaPosterior):
    """With an account of what is still learnt and of what responses cost: two acquisitions ask for these."""

    yields = np.linspace(0.5, 1.0, 80)

    def expected_tokens(self) -> FloatArray:
        return np.linspace(1.0, 50.0, 80)


@pytest.mark.parametrize("name", sorted(ACQUISITIONS))
def test_every_acquisition_is_keyed(name: str) -> None:
    posterior = _Followed(A * 20, B * 20)
    first = ACQUISITIONS[name](posterior, 8, generator(0, "test", 3))
    assert first.shape == (80,)
    assert first.dtype == np.float64
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, ACQUISITIONS[name](posterior, 8, generator(0, "test", 3)))


def test_a_single_response_is_worth_what_one_half_of_a_pair_would_be() -> None:
    posterior = PointPosterior(np.array([0.0, 0.2, 0.5, 0.9]))
    scores = ACQUISITIONS["useful_group"](posterior, 1, np.random.default_rng(0))
    np.testing.assert_allclose(scores, [0.0, 0.32, 0.5, 0.18])
