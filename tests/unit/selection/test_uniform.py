"""Uniform selection: every prompt once per epoch, whatever is in flight."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.base.types import SelectionRequest, SlotKind
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.uniform import UniformSelector

TABLE = PromptTable(
    prompt_ids=tuple(f"p{i}" for i in range(13)),
    texts=("",) * 13,
    embeddings=np.zeros((13, 2), np.float32),
    num_pool=11,
)


def _request(step: int, num_prompts: int = 3, excluded: frozenset[str] = frozenset()) -> SelectionRequest:
    return SelectionRequest(step=step, round=0, num_prompts=num_prompts, group_size=4, excluded=excluded)


def _observe(selector: UniformSelector, step: int, prompt_ids: tuple[str, ...]) -> None:
    rows = np.array([int(prompt_id[1:]) for prompt_id in prompt_ids], dtype=np.int64)
    counts = np.zeros(len(rows), np.int32)
    selector.observe(
        OutcomeBatch(step=step, rows=rows, num_right=counts, num_tried=counts, mean_response_length=counts + np.nan)
    )


def _run(selector: UniformSelector, steps: range) -> list[str]:
    order: list[str] = []
    for step in steps:
        selection = selector.select(_request(step))
        assert len(set(selection.prompt_ids)) == 3
        order += selection.prompt_ids
        _observe(selector, step, selection.prompt_ids)
    return order


def test_an_epoch_holds_every_pool_prompt_once_and_orders_differ() -> None:
    order = _run(UniformSelector(TABLE, 0), range(22))
    epochs = [order[i : i + 11] for i in range(0, 66, 11)]
    assert all(sorted(epoch) == sorted(TABLE.prompt_ids[:11]) for epoch in epochs[:1])
    counts = [order[: 11 * (i + 1)].count(prompt_id) for i in range(6) for prompt_id in TABLE.prompt_ids[:11]]
    assert max(counts) == 6
    # A batch across an epoch's end never holds a prompt twice, so a prompt may come one batch late, but no later.
    assert all(abs(counts[11 * i + j] - (i + 1)) <= 1 for i in range(6) for j in range(11))
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert _run(UniformSelector(TABLE, 0), range(22)) == order
    assert _run(UniformSelector(TABLE, 1), range(22)) != order


def test_selection_predicts_nothing() -> None:
    selector = UniformSelector(TABLE, 0)
    selection = selector.select(_request(1))
    assert np.isnan(selection.predicted_mean).all()
    assert np.isnan(selection.predicted_std).all()
    assert selection.slot_kind.tolist() == [SlotKind.RANDOM] * 3
    assert selection.num_rollouts.tolist() == [4, 4, 4]
    assert selector.predict(np.arange(3), 1) is None


def test_prompts_in_flight_keep_their_turn() -> None:
    selector = UniformSelector(TABLE, 0)
    in_flight = selector.select(_request(0)).prompt_ids
    others: set[str] = set()
    for step in (1, 2):
        selection = selector.select(_request(step, num_prompts=4, excluded=frozenset(in_flight)))
        others |= set(selection.prompt_ids)
        _observe(selector, step, selection.prompt_ids)
    assert others == set(TABLE.prompt_ids[:11]) - set(in_flight)
    assert selector.select(_request(3)).prompt_ids == in_flight


def test_fewer_where_the_pool_has_no_more() -> None:
    selector = UniformSelector(TABLE, 0)
    excluded = frozenset(TABLE.prompt_ids[:9])
    assert sorted(selector.select(_request(0, num_prompts=5, excluded=excluded)).prompt_ids) == ["p10", "p9"]
    assert selector.select(_request(0, excluded=frozenset(TABLE.prompt_ids))).prompt_ids == ()


@pytest.mark.parametrize("at", [1, 4, 9])
def test_state_goes_on(at: int) -> None:
    whole = UniformSelector(TABLE, 0)
    _run(whole, range(at))
    resumed = UniformSelector(TABLE, 0)
    resumed.load_state(whole.state())
    assert resumed.metrics() == whole.metrics()
    assert _run(resumed, range(at, at + 9)) == _run(whole, range(at, at + 9))
