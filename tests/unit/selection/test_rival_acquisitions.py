"""MoPPS's Thompson rules and random ties."""

from __future__ import annotations

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.predictor.beta_posterior import BetaPosterior
from gps_ray.predictor.point_posterior import PointPosterior
from gps_ray.selection.acquisition import ACQUISITIONS


def _best(name: str, rates: FloatArray, count: int, seed: int = 0) -> list[int]:
    scores = ACQUISITIONS[name](PointPosterior(rates), 8, generator(seed, "test"))
    return np.argsort(-scores, kind="stable")[:count].tolist()


def test_topk_takes_the_draws_nearest_to_one_half() -> None:
    assert _best("thompson_nearest_half", np.array([0.1, 0.45, 0.9, 0.52, 0.7]), 3) == [3, 1, 4]


def test_topk_draws_once_from_the_posterior() -> None:
    posterior = BetaPosterior(np.array([1.0, 5.0, 50.0]), np.array([1.0, 1.0, 50.0]))
    draw = posterior.sample(1, generator(3, "test"))[0]
    scores = ACQUISITIONS["thompson_nearest_half"](posterior, 8, generator(3, "test"))
    np.testing.assert_allclose(scores, -((draw - 0.5) ** 2))


def test_threshold_takes_any_inside_then_the_nearest_outside() -> None:
    rates = np.array([0.05, 0.31, 0.5, 0.69, 0.75, 0.9, 0.28])
    assert set(_best("thompson_threshold", rates, 3)) == {1, 2, 3}
    assert _best("thompson_threshold", rates, 7)[3:] == [6, 4, 5, 0]  # .02, .05, .2 and .25 away
    firsts = {_best("thompson_threshold", rates, 1, seed)[0] for seed in range(30)}
    assert firsts == {1, 2, 3}


def test_ties_are_broken_at_random_and_nothing_else_is() -> None:
    rates = np.array([0.2, 0.5, 0.5, 0.5, 0.9])
    for name in ("nearest_half_shuffled", "useful_group_shuffled"):
        orders = {tuple(_best(name, rates, 5, seed)) for seed in range(60)}
        assert {order[3:] for order in orders} == {(0, 4)}
        assert len(orders) == 6
        assert {tuple(_best(name.removesuffix("_shuffled"), rates, 5, seed)) for seed in range(5)} == {(1, 2, 3, 0, 4)}


def test_the_paced_target_rises_with_the_policy() -> None:
    weak = np.array([0.02, 0.5, 0.55, 0.75, 0.05, 0.01, 0.03])  # mean .27: target .57
    strong = np.array([0.98, 0.5, 0.55, 0.75, 0.95, 0.99, 0.97])  # mean .81: target .70
    assert _best("thompson_paced", weak, 2) == [2, 1]
    assert _best("thompson_paced", strong, 1) == [3]


def test_reward_variance_counts_what_is_unknown_as_spread_of_the_rate_not_of_the_reward() -> None:
    posterior = BetaPosterior(np.array([1.0, 20.0, 1.0]), np.array([1.0, 20.0, 9.0]))
    scores = ACQUISITIONS["reward_variance"](posterior, 8, generator(0, "test"))
    draws = posterior.sample(200_000, generator(1, "test"))
    np.testing.assert_allclose(scores, (draws * (1 - draws)).mean(axis=0), atol=2e-3)
    assert scores[1] > scores[0] > scores[2]
