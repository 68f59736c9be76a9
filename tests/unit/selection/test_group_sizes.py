"""Rollouts shared out by what they add to the chance of a useful group."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.config import SelectionConfig, TrainConfig, load_config
from gps_ray.predictor.beta_posterior import BetaPosterior
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.point_posterior import PointPosterior
from gps_ray.predictor.sampled_expectations import SampledExpectations
from gps_ray.selection.group_sizes import group_sizes, useful_gains
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.registry import resolve_selection
from gps_ray.selection.uniform import UniformSelector


class DrawnPosterior(SampledExpectations):
    """Two equally likely rates per prompt, without a closed form."""

    def __init__(self, low: FloatArray, high: FloatArray) -> None:
        self.low, self.high = low, high

    def mean(self) -> FloatArray:
        return (self.low + self.high) / 2

    def variance(self) -> FloatArray:
        return (self.high - self.low) ** 2 / 4

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        return np.where(rng.random((num_draws, 1)) < 0.5, self.low, self.high)


POSTERIORS = [
    PointPosterior(np.array([0.5, 0.1, 0.0, 0.9])),
    BetaPosterior(np.array([1.0, 1.0, 20.0, 0.5]), np.array([1.0, 7.0, 20.0, 9.0])),
    DrawnPosterior(np.array([0.0, 0.4, 0.05, 0.5]), np.array([0.2, 0.6, 0.95, 0.5])),
]


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_total_is_kept_and_no_other_sharing_is_better(posterior: BetaPosterior) -> None:
    sizes = group_sizes(posterior, 16, 2, 8, generator(0, "test"))
    assert sizes.dtype == np.int32
    assert sizes.sum() == 16
    useful = posterior.expected_useful(range(2, 9), generator(0, "test"))
    values = {
        shares: sum(useful[n - 2, i] for i, n in enumerate(shares))
        for shares in itertools.product(range(2, 9), repeat=4)
        if sum(shares) == 16
    }
    assert values[tuple(sizes.tolist())] == pytest.approx(max(values.values()), abs=1e-12)


def test_gains_add_up_to_the_probability_of_a_useful_group() -> None:
    posterior = POSTERIORS[1]
    gains = useful_gains(posterior, 6, generator(0, "test"))
    np.testing.assert_allclose(gains.sum(axis=1), posterior.expected_useful((6,))[0])
    assert (np.diff(gains, axis=1) <= 1e-12).all()


def test_a_seldom_solved_prompt_gets_more_than_an_even_one_and_a_hopeless_one_the_least() -> None:
    even, seldom, hopeless = group_sizes(PointPosterior(np.array([0.5, 0.1, 0.0])), 24, 2, 16, generator(0, "test"))
    assert hopeless == 2
    assert 2 < even < seldom


@pytest.mark.parametrize("num_counts", [100, 1000, 10_000, 1_000_000])
def test_many_counts_do_not_break_the_sharing_by_their_rounding(num_counts: int) -> None:
    rng = generator(0, "test/counts")
    for _ in range(20):
        right = rng.uniform(0.05, 0.95, size=16) * num_counts
        posterior = BetaPosterior(1 + right, 1 + num_counts - right)
        sizes = group_sizes(posterior, 16 * 8, 4, 16, generator(0, "test"))
        assert sizes.sum() == 16 * 8
        # With so many counts the rates are as good as known.
        exact = group_sizes(PointPosterior(posterior.mean()), 16 * 8, 4, 16, generator(0, "test"))
        assert np.abs(sizes - exact).max() <= (2 if num_counts == 100 else 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selection.group_size_range=[1, 8]"], r"selection\.group_size_range: .* 2 <= fewest <= most, got \[1, 8\]"),
        (["selection.group_size_range=[9, 16]"], r"bounds around rollout\.group_size = 8, got \[9, 16\]"),
    ],
)
def test_impossible_bounds_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, None, overrides)


def user_uniform(config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return UniformSelector(table, run_seed)


@pytest.mark.parametrize("name", ["uniform", "ds", "greso", f"{__name__}:user_uniform"])
def test_a_selector_that_predicts_nothing_cannot_share_out(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' predicts nothing"):
        resolve_selection(SelectionConfig(selector=name, group_size_range=(2, 16)))


@pytest.mark.parametrize("changes", [{"selector": "dps"}, {"selector": "gps", "predictor": "markov_state"}])
def test_a_predictor_of_whole_groups_cannot_share_out(changes: dict[str, str]) -> None:
    """Its gains past the second rollout were all 0, so that the first prompts got the most and the rest the least."""
    with pytest.raises(ConfigError, match=r"predictor 'markov_state' .*says nothing of groups of another size"):
        resolve_selection(SelectionConfig(**changes, group_size_range=(4, 16)))
