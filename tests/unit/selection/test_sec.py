"""SEC: its values against the formula, what its draws prefer, its kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import SelectionRequest
from gps_ray.config import FusedConfig, SecConfig
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.recorded import outcome_batch
from gps_ray.selection.sec import SecSelector, kinds_of_prompts
from tests.unit.predictor.test_fused_features import make_table

TABLE = make_table(90)
KINDS = np.repeat([0, 1, 2], 30)


def _request(step: int, num_prompts: int = 12, excluded: frozenset[str] = frozenset()) -> SelectionRequest:
    return SelectionRequest(
        step=step, round=0, num_prompts=num_prompts, group_size=8, num_missing=num_prompts, excluded=excluded
    )


def test_values_follow_the_expected_absolute_advantage() -> None:
    selector = SecSelector(TABLE, KINDS, SecConfig(rate=0.5), 0)
    selector.observe(outcome_batch(1, np.array([0, 1, 30, 31]), np.array([4, 8, 2, 0]), np.array([8, 8, 8, 0])))
    first = [0.5 * (1.0 + 0.0) / 2, 0.5 * 2 * np.sqrt(0.25 * 0.75), 0.0]
    np.testing.assert_allclose(selector.state()["values"], first)
    selector.observe(outcome_batch(2, np.array([60]), np.array([4]), np.array([8])))
    np.testing.assert_allclose(selector.state()["values"], [*first[:2], 0.5])


def test_kinds_are_drawn_by_the_softmax_of_their_values() -> None:
    selector = SecSelector(TABLE, KINDS, SecConfig(rate=1.0, temperature=0.5), 0)
    selector.observe(outcome_batch(1, np.array([0, 30, 60]), np.array([4, 1, 0]), np.array([8, 8, 8])))
    index, counts = PromptIndex(TABLE), np.zeros(3)
    for step in range(400):
        counts += np.bincount(KINDS[index.rows(selector.select(_request(step, 4)).prompt_ids)], minlength=3)
    np.testing.assert_allclose(counts / counts.sum(), selector.shares(), atol=0.04)
    assert selector.shares()[0] > 3 * selector.shares()[2]


def test_prompts_are_distinct_free_and_asked_again_the_same() -> None:
    selector = SecSelector(TABLE, KINDS, SecConfig(), 0)
    excluded = frozenset(TABLE.prompt_ids[:85])
    chosen = selector.select(_request(3, 12, excluded))
    assert sorted(chosen.prompt_ids) == sorted(TABLE.prompt_ids[85:])
    whole = selector.select(_request(3, 90))
    assert len(set(whole.prompt_ids)) == 90
    assert selector.select(_request(3, 90)).prompt_ids == whole.prompt_ids


def test_kinds_are_those_of_the_texts() -> None:
    sums = [f"{i} + {i + 3} - {2 * i} =" for i in range(45)]
    stories = [f"A farmer owns many sheep and sells {i} of them to the miller. How many are left?" for i in range(45)]
    table = replace(TABLE, texts=tuple(sums + stories), embeddings=np.zeros((90, 8), dtype=np.float32))
    kinds = kinds_of_prompts(table, FusedConfig(), 2)
    assert len(set(kinds[:45].tolist())) == len(set(kinds[45:].tolist())) == 1
    assert kinds[0] != kinds[89]
    np.testing.assert_array_equal(kinds, kinds_of_prompts(table, FusedConfig(), 2))
    # No more kinds than there are different prompts.
    alike = replace(table, texts=("the same",) * 90)
    assert kinds_of_prompts(alike, FusedConfig(), 4).tolist() == [0] * 90


def test_a_state_of_other_kinds_is_refused() -> None:
    state = SecSelector(TABLE, KINDS, SecConfig(), 0).state()
    with pytest.raises(CheckpointError, match=r"selection\.sec\.num_kinds"):
        SecSelector(TABLE, KINDS[::-1].copy(), SecConfig(), 0).load_state(state)
