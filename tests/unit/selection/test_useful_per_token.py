"""Usefulness per expected token: of two equally useful prompts the one with the shorter answer, whoever predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.point_posterior import PointPosterior
from gps_ray.selection.acquisition import useful_group, useful_per_token
from gps_ray.selection.costed import Costed
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.registry import build_selector

NUM_PROMPTS, GROUP_SIZE = 160, 8


def _table() -> PromptTable:
    """Every other text asks for a long answer."""
    rng = generator(0, "per_token")
    forms = ("What is {} + {}?", "Explain at length, step by step and in words, why {} times {} is what it is.")
    texts = tuple(forms[row % 2].format(*rng.integers(1, 999, 2)) for row in range(NUM_PROMPTS))
    embeddings = np.zeros((NUM_PROMPTS, 4), np.float32)
    return PromptTable(prompt_ids=texts, texts=texts, embeddings=embeddings, num_pool=NUM_PROMPTS)


TABLE = _table()
LENGTHS = np.where(np.arange(NUM_PROMPTS) % 2, 200.0, 10.0)


def _selector(predictor: str, selector: str = "gps_fused", **settings: object) -> PromptSelector:
    tree = {
        "selector": selector,
        "predictor": predictor,
        "acquisition": "useful_per_token",
        "num_prompts": 16,
        "random_share": 0.0,
        "sampling_exponent": None,
        "diversity_within": 0.0,
        "diversity_recent": 0.0,
        "candidate_multiple": None,
        "fused": {"num_features": 32},
        **settings,
    }
    return build_selector(SelectionConfig.model_validate(tree), TABLE, GROUP_SIZE, 0)


def _request(step: int) -> SelectionRequest:
    return SelectionRequest(step=step, round=0, num_prompts=16, group_size=GROUP_SIZE)


def _half_right(step: int, rows: list[int], lengths: FloatArray) -> OutcomeBatch:
    return OutcomeBatch(
        step=step,
        rows=np.array(rows),
        num_right=np.full(len(rows), GROUP_SIZE // 2, np.int32),
        num_tried=np.full(len(rows), GROUP_SIZE, np.int32),
        mean_response_length=lengths.astype(np.float32),
    )


def _rows(selection: Selection) -> list[int]:
    return PromptIndex(TABLE).rows(selection.prompt_ids).tolist()


def _posterior(tokens: FloatArray) -> Costed:
    return Costed(PointPosterior(np.array([0.5, 0.5, 0.1])), lambda: tokens)


def test_by_hand() -> None:
    rng, rates = generator(0, "test"), PointPosterior(np.array([0.5, 0.5, 0.1]))
    useful = useful_group(rates, GROUP_SIZE, rng)
    scores = useful_per_token(_posterior(np.array([10.0, 30.0, 5.0])), GROUP_SIZE, rng)
    np.testing.assert_allclose(scores, useful * 15 / np.array([10.0, 30.0, 5.0]))
    # All as long: the scale is that of useful_group, against which diversity weighs.
    np.testing.assert_allclose(useful_per_token(_posterior(np.full(3, 700.0)), GROUP_SIZE, rng), useful)
    np.testing.assert_array_equal(useful_per_token(_posterior(np.zeros(0)), GROUP_SIZE, rng), useful)


def test_a_posterior_without_costs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"selection\.acquisition: useful_per_token needs .* set another"):
        useful_per_token(PointPosterior(np.array([0.5])), GROUP_SIZE, generator(0, "test"))


@pytest.mark.parametrize("predictor", ["fused", "beta_counts", "arc"])
def test_the_shorter_of_two_equally_useful_prompts_is_taken(predictor: str) -> None:
    """Both kinds are half right. A record knows the lengths of what it saw, the posterior those of their like too."""
    seen = list(range(60))
    selector = _selector(predictor)
    selector.observe(_half_right(0, seen, LENGTHS[seen]))
    known = np.array(_rows(selector.select(replace(_request(1), excluded=frozenset(TABLE.prompt_ids[60:])))))
    assert len(known) == 16
    assert (known % 2 == 0).all()
    unseen = np.array(_rows(selector.select(replace(_request(1), excluded=frozenset(TABLE.prompt_ids[:60])))))
    assert (unseen % 2 == 0).all() == (predictor == "fused")


def test_without_lengths_it_is_useful_group() -> None:
    seen = list(range(60))
    per_token, useful = _selector("fused"), _selector("fused", acquisition="useful_group")
    for selector in (per_token, useful):
        selector.observe(_half_right(0, seen, np.full(60, np.nan)))
    assert _rows(per_token.select(_request(1))) == _rows(useful.select(_request(1)))


def test_empty_responses_have_a_price_and_an_overhead_evens_prices_out() -> None:
    seen, lengths = list(range(60)), np.where(np.arange(60) % 2, 200.0, 0.0)
    free = _selector("fused")
    free.observe(_half_right(0, seen, lengths))
    assert (np.array(_rows(free.select(_request(1)))) % 2 == 0).all()
    # With a million tokens of overhead nobody looks at lengths any more.
    costly, useful = _selector("fused", overhead_tokens=1e6), _selector("fused", acquisition="useful_group")
    for selector in (costly, useful):
        selector.observe(_half_right(0, seen, lengths))
    assert len(set(_rows(costly.select(_request(1)))) & set(_rows(useful.select(_request(1))))) >= 14


def test_an_overhead_below_zero_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="overhead_tokens"):
        SelectionConfig(overhead_tokens=-1.0)
    with pytest.raises(ConfigError, match=r"selection\.acquisition_options: .* its settings are selection\.overhead"):
        _selector("fused", acquisition_options={"overhead_tokens": 3})


@pytest.mark.parametrize("predictor", ["fused", "beta_counts"])
def test_it_goes_on_bit_for_bit(predictor: str) -> None:
    settings = {"sampling_exponent": 2.0, "candidate_multiple": 4}
    whole, resumed = _selector(predictor, **settings), _selector(predictor, **settings)
    whole.observe(_half_right(0, list(range(40)), LENGTHS[:40]))
    whole.observe(_half_right(1, list(range(30, 60)), LENGTHS[30:60]))
    resumed.load_state(whole.state())
    for step in (2, 3):
        assert _rows(resumed.select(_request(step))) == _rows(whole.select(_request(step)))
        for selector in (whole, resumed):
            rows = list(range(10 * step, 10 * step + 10))
            selector.observe(_half_right(step, rows, LENGTHS[rows]))


def test_other_acquisitions_never_ask_for_lengths() -> None:
    def refuse() -> FloatArray:
        raise AssertionError("lengths of a large pool cost as much as its success rates")

    posterior = Costed(PointPosterior(np.array([0.5, 0.1])), refuse)
    assert useful_group(posterior, GROUP_SIZE, generator(0, "test"))[0] > 0.9


def test_what_else_a_posterior_of_ones_own_says_reaches_an_acquisition_of_ones_own() -> None:
    class Curious(PointPosterior):
        surprise = 3.0

    posterior = Costed(Curious(np.array([0.5])), lambda: np.ones(1))
    assert posterior.surprise == 3.0
    with pytest.raises(AttributeError, match="interest"):
        _ = posterior.interest
