"""What a group teaches: the account itself, and a toy policy that learns one kind of prompt, forgets another and gains
nothing from a third."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.beta_posterior import BetaPosterior
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.learning_progress import LearningProgress
from gps_ray.predictor.recorded import outcome_batch
from gps_ray.selection.acquisition import learning_progress
from gps_ray.selection.registry import build_selector

EVEN = np.full(3, 1 / 3)


def _after(progress: LearningProgress, slopes: FloatArray, kinds: list[int], num_steps: int = 60) -> FloatArray:
    for step in range(num_steps):
        progress.observe(0.5 + slopes * step, np.array(kinds))
    return progress.yields()


def test_nothing_is_said_at_the_start() -> None:
    progress = LearningProgress(EVEN)
    assert progress.yields().tolist() == [1, 1, 1]
    assert _after(progress, np.array([0.01, 0.0, 0.0]), [0, 1], num_steps=8).tolist() == [1, 1, 1]


def test_a_kind_that_moves_yields_more_per_group_falling_or_rising() -> None:
    rising = _after(LearningProgress(EVEN), np.array([0.003, 0.0, 0.0]), [0, 1, 2])
    falling = _after(LearningProgress(EVEN), np.array([-0.003, 0.0, 0.0]), [0, 1, 2])
    np.testing.assert_allclose(rising, falling)
    assert rising[0] > 2 * rising[1]


def test_the_same_gain_from_fewer_groups_is_a_larger_yield() -> None:
    yields = _after(LearningProgress(EVEN), np.full(3, 0.003), [0, 1, 1, 1, 1, 2, 2])
    assert yields[0] > yields[2] > yields[1]


def test_yields_stay_within_bounds_and_weigh_the_pool() -> None:
    yields = _after(LearningProgress(np.array([0.9, 0.05, 0.05])), np.array([0.0, 0.006, 0.0]), [0, 2] * 8)
    assert yields.min() >= 0.25
    assert yields.max() <= 4


def test_a_loaded_account_goes_on() -> None:
    one, other = LearningProgress(EVEN), LearningProgress(EVEN)
    _after(one, np.array([0.003, -0.001, 0.0]), [0, 2], num_steps=20)
    other.load_state(one.state())
    for progress in (one, other):
        progress.observe(np.array([0.4, 0.5, 0.6]), np.array([1]))
    np.testing.assert_array_equal(one.yields(), other.yields())


def test_a_predictor_without_the_account_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"selection\.predictor=fused"):
        learning_progress(BetaPosterior(np.ones(3), np.ones(3)), 8, generator(0, "test"))


class _Toy:
    """Even (sums): always half right, whatever is trained. Learnt (stories): few are useful at first, and every useful
    group lifts all of them. Forgotten (letters): nearly solved, falling unless trained."""

    def __init__(self) -> None:
        rng = generator(0, "toy")
        sums = [f"{a} + {b} - {c} =" for a, b, c in rng.integers(1, 99, (100, 3))]
        stories = [f"A farmer sells {a} of {b} sheep to the miller. How many are left?" for a, b in
                   rng.integers(1, 99, (100, 2))]  # fmt: skip
        letters = [
            f"Reverse the word {''.join(rng.choice(list('abcdefghij'), 6))} letter by letter" for _ in range(100)
        ]
        self.table = PromptTable(
            prompt_ids=tuple(f"p{i}" for i in range(300)),
            texts=tuple(sums + stories + letters),
            embeddings=np.zeros((300, 4), dtype=np.float32),
            num_pool=300,
        )
        self.kind = np.repeat([0, 1, 2], 100)
        self._own = rng.normal(0, 0.7, 300)
        self._level = np.array([0.0, -4.0, 2.5])

    def rates(self) -> FloatArray:
        return np.asarray(expit(self._level[self.kind] + self._own), dtype=np.float64)

    def train(self, kinds: FloatArray) -> None:
        self._level[1] += 0.06 * float((kinds == 1).sum())
        self._level[2] = min(self._level[2] - 0.04 + 0.04 * float((kinds == 2).sum()), 2.5)


def _trained(acquisition: str, num_steps: int = 70) -> FloatArray:
    """Mean success rate of each kind at the end."""
    toy = _Toy()
    config = SelectionConfig.model_validate(
        {"selector": "gps_fused", "acquisition": acquisition, "num_prompts": 16, "fused": {"num_features": 48}}
    )
    selector, index = build_selector(config, toy.table, 8, 0), PromptIndex(toy.table)
    for step in range(num_steps):
        request = SelectionRequest(step=step, round=0, num_prompts=16, group_size=8, num_missing=16)
        rows = index.rows(selector.select(request).prompt_ids)
        right = generator(0, "toy/outcomes", step).binomial(8, toy.rates()[rows])
        selector.observe(outcome_batch(step, rows, right, np.full(16, 8)))
        toy.train(toy.kind[rows[(right > 0) & (right < 8)]])
    return np.array([toy.rates()[toy.kind == kind].mean() for kind in range(3)])


def test_slots_go_where_groups_teach_and_to_what_is_forgotten() -> None:
    by_use, by_progress = _trained("useful_group"), _trained("learning_progress")
    assert by_progress[1] > by_use[1] + 0.05
    assert by_progress.mean() > by_use.mean() + 0.02
