"""The oracle: it takes the candidates nearest to one half by their true rates, and refuses to guess."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.oracle import OracleSelector, oracle_candidates
from gps_ray.selection.registry import build_selector, resolve_selection

NUM_POOL, NUM_ROWS = 100, 110


def _oracle(**settings: object) -> OracleSelector:
    names = tuple(f"p{i}" for i in range(NUM_ROWS))
    table = PromptTable(
        prompt_ids=names, texts=names, embeddings=np.zeros((NUM_ROWS, 4), np.float32), num_pool=NUM_POOL
    )
    config = SelectionConfig.model_validate({"selector": "oracle", "num_prompts": 5, **settings})
    selector = build_selector(config, table, 8, 0)
    assert isinstance(selector, OracleSelector)
    return selector


def _request(
    step: int = 1, excluded: frozenset[str] = frozenset(), rates: Mapping[str, float] | None = None
) -> SelectionRequest:
    return SelectionRequest(
        step=step, round=0, num_prompts=5, group_size=8, excluded=excluded, success_rates=rates or {}
    )


def _candidates(request: SelectionRequest, **settings: object) -> IntArray:
    config = SelectionConfig.model_validate({"selector": "oracle", "num_prompts": 5, **settings})
    names = tuple(f"p{i}" for i in range(NUM_POOL))
    return np.array([int(i[1:]) for i in oracle_candidates(resolve_selection(config), names, 0, request)])


def _told(rows: IntArray) -> dict[str, float]:
    return {f"p{row}": float(_rates(1)[row]) for row in rows}


def _rates(step: int) -> FloatArray:
    return generator(0, "test/rates", step).random(NUM_ROWS)


def _batch(step: int) -> OutcomeBatch:
    none = np.zeros(0, np.int32)
    return OutcomeBatch(
        step=step, rows=none.astype(np.int64), num_right=none, num_tried=none, mean_response_length=np.zeros(0)
    )


@pytest.mark.parametrize("step", [1, 2])
def test_of_its_candidates_it_takes_those_nearest_to_one_half(step: int) -> None:
    oracle = _oracle()
    oracle.follow(_rates)
    candidates = _candidates(_request(step))
    assert len(candidates) == 40
    selection = oracle.select(_request(step))
    by_distance = candidates[np.argsort(np.abs(_rates(step)[candidates] - 0.5))]
    assert [int(i[1:]) for i in selection.prompt_ids] == by_distance[:5].tolist()
    np.testing.assert_allclose(selection.predicted_mean, _rates(step)[by_distance[:5]])
    np.testing.assert_array_equal(selection.predicted_std, 0)


def test_rates_revealed_for_a_step_are_enough_and_last_one_step() -> None:
    oracle = _oracle()
    with pytest.raises(ConfigError, match=r"40 candidates.*40 are unknown.*selection\.selector"):
        oracle.select(_request(1))
    chosen = oracle.select(_request(1, rates=_told(_candidates(_request(1))))).prompt_ids
    known = _oracle()
    known.set_success_rates(_rates(1))
    assert chosen == known.select(_request(1)).prompt_ids
    oracle.observe(_batch(1))
    with pytest.raises(ConfigError, match="40 are unknown"):
        oracle.select(_request(1))


def test_random_slots_are_candidates_too() -> None:
    oracle = _oracle(random_share=0.4, candidate_multiple=2)
    candidates = _candidates(_request(), random_share=0.4, candidate_multiple=2)
    assert len(set(candidates.tolist())) == 2 + 10
    chosen = oracle.select(_request(rates=_told(candidates))).prompt_ids
    assert {int(i[1:]) for i in chosen} <= set(candidates.tolist())


def test_candidates_leave_out_prompts_in_flight() -> None:
    excluded = frozenset(f"p{i}" for i in range(90))
    candidates = _candidates(_request(excluded=excluded), candidate_multiple=None)
    assert candidates.tolist() == list(range(90, 100))


def test_it_predicts_what_it_was_told_and_nothing_else() -> None:
    oracle = _oracle()
    told = _candidates(_request())
    oracle.select(_request(rates=_told(told)))
    posterior = oracle.predict(told[:3], 1)
    assert posterior is not None
    np.testing.assert_array_equal(posterior.mean(), _rates(1)[told[:3]])
    # A guess in place of a rate would show as the oracle's mistake in a report.
    unknown = np.setdiff1d(np.arange(NUM_POOL), told)[:1]
    assert oracle.predict(np.concatenate([told[:3], unknown]), 1) is None
