"""DPS against a table worked out by hand (fractions written out, not computed by the code under test)."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.config import DpsConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.markov_state import MarkovStatePosterior, MarkovStatePredictor

SCRIPTED, NEVER = 0, 1


def _table(num_prompts: int) -> PromptTable:
    names = tuple(f"p{i}" for i in range(num_prompts))
    return PromptTable(
        prompt_ids=names, texts=names, embeddings=np.zeros((num_prompts, 4), np.float32), num_pool=num_prompts
    )


def _batch(step: int, groups: list[tuple[int, int, int]]) -> OutcomeBatch:
    rows, num_right, num_tried = np.array(groups, dtype=np.int64).reshape(-1, 3).T
    return OutcomeBatch(
        step=step,
        rows=rows,
        num_right=num_right.astype(np.int32),
        num_tried=num_tried.astype(np.int32),
        mean_response_length=np.full(len(rows), np.nan, np.float32),
    )


def _probabilities(predictor: MarkovStatePredictor, row: int) -> FloatArray:
    posterior = predictor.predict(np.array([row]), 0)
    assert isinstance(posterior, MarkovStatePosterior)
    return posterior.probabilities[0]


def test_a_scripted_history_equals_the_hand_computed_table() -> None:
    """lam = 1/2, alpha0 = 1; alpha is written [new][old]."""
    predictor = MarkovStatePredictor(_table(2), DpsConfig(discount=0.5))
    np.testing.assert_allclose(_probabilities(predictor, SCRIPTED), [1 / 3, 1 / 3, 1 / 3])

    # Mixed (3 of 8). Before: pi_old uniform, P = 1/3 everywhere, so xi = 1/3 along the row new = mixed.
    predictor.observe(_batch(1, [(SCRIPTED, 3, 8)]))
    np.testing.assert_allclose(predictor.state()["alpha"][SCRIPTED], [[1, 1, 1], [4 / 3, 4 / 3, 4 / 3], [1, 1, 1]])
    np.testing.assert_allclose(_probabilities(predictor, SCRIPTED), [0.3, 0.4, 0.3])

    # All right, from one response. pi_old = mixed for sure, so xi = 1 at (all right, mixed).
    predictor.observe(_batch(2, [(SCRIPTED, 1, 1)]))
    np.testing.assert_allclose(predictor.state()["alpha"][SCRIPTED], [[1, 1, 1], [7 / 6, 7 / 6, 7 / 6], [1, 2, 1]])
    np.testing.assert_allclose(_probabilities(predictor, SCRIPTED), [6 / 19, 7 / 19, 6 / 19])

    # An empty batch: counts decay towards 1, the posterior propagates through columns [12 13 12]/37 and [12 13 18]/43.
    predictor.observe(_batch(3, []))
    alpha = [[1, 1, 1], [13 / 12, 13 / 12, 13 / 12], [1, 3 / 2, 1]]
    np.testing.assert_allclose(predictor.state()["alpha"][SCRIPTED], alpha)
    propagated = [
        12 / 37 * 12 / 19 + 12 / 43 * 7 / 19,
        13 / 37 * 12 / 19 + 13 / 43 * 7 / 19,
        12 / 37 * 12 / 19 + 18 / 43 * 7 / 19,
    ]
    np.testing.assert_allclose(_probabilities(predictor, SCRIPTED), propagated)

    # All wrong. pi_old = (6, 7, 6)/19: xi along the row new = all wrong in proportion 12/37*6 : 12/43*7 : 12/37*6.
    predictor.observe(_batch(4, [(SCRIPTED, 0, 8)]))
    total = 72 / 37 + 84 / 43 + 72 / 37
    xi = [72 / 37 / total, 84 / 43 / total, 72 / 37 / total]
    alpha = [[1 + xi[0], 1 + xi[1], 1 + xi[2]], [25 / 24, 25 / 24, 25 / 24], [1, 5 / 4, 1]]
    np.testing.assert_allclose(predictor.state()["alpha"][SCRIPTED], alpha)
    column = 1 + xi[0] + 25 / 24 + 1
    np.testing.assert_allclose(
        _probabilities(predictor, SCRIPTED), [(1 + xi[0]) / column, 25 / 24 / column, 1 / column]
    )

    np.testing.assert_allclose(_probabilities(predictor, NEVER), [1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_array_equal(predictor.seen(np.array([SCRIPTED, NEVER])), [True, False])


def test_a_group_without_a_verdict_is_no_observation() -> None:
    predictor = MarkovStatePredictor(_table(1), DpsConfig())
    predictor.observe(_batch(1, [(0, 0, 0)]))
    np.testing.assert_allclose(_probabilities(predictor, 0), [1 / 3, 1 / 3, 1 / 3])
    assert not predictor.seen(np.array([0]))[0]


def test_prompts_do_not_touch_each_other() -> None:
    together = MarkovStatePredictor(_table(3), DpsConfig(discount=0.7))
    alone = MarkovStatePredictor(_table(3), DpsConfig(discount=0.7))
    together.observe(_batch(1, [(2, 0, 4), (0, 4, 4), (1, 2, 4)]))
    together.observe(_batch(2, [(1, 4, 4)]))
    alone.observe(_batch(1, [(1, 2, 4)]))
    alone.observe(_batch(2, [(1, 4, 4)]))
    np.testing.assert_allclose(_probabilities(together, 1), _probabilities(alone, 1))


def test_probabilities_stay_probabilities_over_a_long_run() -> None:
    predictor = MarkovStatePredictor(_table(20), DpsConfig(discount=0.9))
    for step in range(200):
        rng = generator(0, "test", step)
        rows = rng.choice(20, size=5, replace=False)
        predictor.observe(_batch(step, [(int(row), int(rng.integers(0, 5)), 4) for row in rows]))
    posterior = predictor.predict(np.arange(20), 200)
    assert isinstance(posterior, MarkovStatePosterior)
    np.testing.assert_allclose(posterior.probabilities.sum(axis=1), 1.0)
    assert (posterior.probabilities > 0).all()


def test_the_posterior_as_a_distribution_of_rates() -> None:
    posterior = MarkovStatePosterior(np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(posterior.mean(), [0.55, 0.0, 1.0])
    np.testing.assert_allclose(posterior.variance(), [0.5 / 3 + 0.3 - 0.55**2, 0.0, 0.0])
    np.testing.assert_allclose(posterior.expected_useful((8,))[0], [0.5, 0.0, 0.0])
    draws = posterior.sample(20_000, generator(0, "test"))
    np.testing.assert_allclose(draws.mean(axis=0), posterior.mean(), atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), posterior.variance(), atol=0.01)


def test_a_state_of_another_pool_is_refused() -> None:
    state = MarkovStatePredictor(_table(3), DpsConfig()).state()
    with pytest.raises(CheckpointError, match="2 prompts, got 3"):
        MarkovStatePredictor(_table(2), DpsConfig()).load_state(state)
