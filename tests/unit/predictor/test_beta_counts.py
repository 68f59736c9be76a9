"""Discounted Beta counts against tables worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.config import BetaCountsConfig
from gps_ray.predictor.beta_counts import BetaCountsPredictor
from gps_ray.predictor.interface import OutcomeBatch, PromptTable


def _predictor(num_prompts: int, **config: float) -> BetaCountsPredictor:
    names = tuple(f"p{i}" for i in range(num_prompts))
    table = PromptTable(
        prompt_ids=names, texts=names, embeddings=np.zeros((num_prompts, 4), np.float32), num_pool=num_prompts
    )
    return BetaCountsPredictor(table, BetaCountsConfig.model_validate(config))


def _observe(predictor: BetaCountsPredictor, *groups: tuple[int, int, int]) -> None:
    """One step's groups as (row, num_right, num_tried)."""
    rows, num_right, num_tried = np.array(groups, dtype=np.int64).reshape(-1, 3).T
    predictor.observe(
        OutcomeBatch(
            step=1,
            rows=rows,
            num_right=num_right.astype(np.int32),
            num_tried=num_tried.astype(np.int32),
            mean_response_length=np.full(len(rows), np.nan, np.float32),
        )
    )


def _counts(predictor: BetaCountsPredictor) -> list[tuple[float, float]]:
    state = predictor.state()
    return list(zip(state["alpha"].tolist(), state["beta"].tolist(), strict=True))


def test_a_scripted_history_with_forgetting() -> None:
    """lam = 1/2, a0 = b0 = 1: only visited prompts move."""
    predictor = _predictor(3, discount=0.5)
    _observe(predictor, (0, 3, 8), (1, 0, 8))
    assert _counts(predictor) == [(1 + 3, 1 + 5), (1, 1 + 8), (1, 1)]
    _observe(predictor, (0, 1, 1))  # n = 1: a = 4/2 + 1/2 + 1, b = 6/2 + 1/2
    assert _counts(predictor) == [(3.5, 3.5), (1, 9), (1, 1)]
    _observe(predictor)  # an empty batch forgets nothing
    _observe(predictor, (1, 0, 0))  # a group without a verdict is no visit
    assert _counts(predictor) == [(3.5, 3.5), (1, 9), (1, 1)]
    _observe(predictor, (1, 8, 8), (0, 0, 8))
    assert _counts(predictor) == [(1.75 + 0.5, 1.75 + 0.5 + 8), (0.5 + 0.5 + 8, 4.5 + 0.5), (1, 1)]
    assert predictor.predict(np.array([1, 2]), 5).mean().tolist() == [9 / 14, 0.5]
    assert predictor.seen(np.array([2, 1, 0])).tolist() == [False, True, True]


def test_without_forgetting_counts_add_up() -> None:
    predictor = _predictor(1, discount=1.0, prior_right=0.5, prior_wrong=2.0)
    for k, n in ((2, 8), (5, 8), (0, 1)):
        _observe(predictor, (0, k, n))
    assert _counts(predictor) == [(0.5 + 7, 2.0 + 10)]
    assert predictor.metrics() == {"mean_count": 17}


def test_the_slow_forgetting_of_beta_mean() -> None:
    predictor = _predictor(1)
    _observe(predictor, (0, 6, 8))
    _observe(predictor, (0, 2, 8))
    # a = .9 * 7 + .1 + 2, b = .9 * 3 + .1 + 6
    np.testing.assert_allclose(_counts(predictor), [(8.4, 8.8)])


def test_two_groups_of_one_prompt_are_one_larger_group() -> None:
    twice, once = _predictor(2, discount=0.5), _predictor(2, discount=0.5)
    _observe(twice, (1, 3, 4), (0, 1, 4), (1, 0, 4))
    _observe(once, (0, 1, 4), (1, 3, 8))
    assert _counts(twice) == _counts(once)


def test_a_state_of_another_pool_is_refused() -> None:
    with pytest.raises(CheckpointError, match="2 prompts, got 3"):
        _predictor(2).load_state(_predictor(3).state())
