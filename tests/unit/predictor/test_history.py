"""Outcomes by row, windows and reuse counts that go on, outcome files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError, DataError
from gps_ray.base.tables import outcomes_from_table
from gps_ray.base.types import GroupOutcome, RolloutStatus, Selection, SlotKind
from gps_ray.predictor.history import OutcomeWindow, PromptIndex, ReuseCounter, concatenate_batches
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.run.outcomes import OUTCOME_FILE, read_outcomes, write_outcomes
from gps_ray.run.segments import Segments, read_segments

TABLE = PromptTable(
    prompt_ids=("a", "b", "c", "held_out"), texts=("",) * 4, embeddings=np.zeros((4, 2), np.float32), num_pool=3
)


def _outcome(prompt_id: str, status: list[RolloutStatus], lengths: list[int]) -> GroupOutcome:
    return GroupOutcome(
        prompt_id=prompt_id,
        policy_version=3,
        rewards=np.array([float(s == RolloutStatus.RIGHT) for s in status], np.float32),
        status=np.array(status, np.int8),
        response_lengths=np.array(lengths, np.int32),
    )


OUTCOMES = [
    _outcome("c", [RolloutStatus.RIGHT, RolloutStatus.FAILED, RolloutStatus.WRONG], [4, 5, 9]),
    _outcome("a", [RolloutStatus.FAILED], [2]),
    _outcome("b", [], []),
]


def _selection(round_: int, prompt_ids: tuple[str, ...], kinds: list[SlotKind], mean: list[float]) -> Selection:
    return Selection(
        step=7,
        round=round_,
        prompt_ids=prompt_ids,
        num_rollouts=np.full(len(prompt_ids), 3, np.int32),
        predicted_mean=np.array(mean),
        predicted_std=np.array(mean) / 2,
        slot_kind=np.array(kinds, np.int8),
        num_candidates=3 - round_,
        expected_useful=np.array(mean) / 4 if round_ else None,
        num_steps_observed=6 if round_ else None,
    )


def _batch(step: int, rows: list[int]) -> OutcomeBatch:
    return OutcomeBatch(
        step=step,
        rows=np.array(rows, np.int64),
        num_right=np.arange(len(rows), dtype=np.int32),
        num_tried=np.full(len(rows), 4, np.int32),
        mean_response_length=np.full(len(rows), np.nan, np.float32),
    )


def test_outcomes_become_counts_of_verdicts() -> None:
    batch = PromptIndex(TABLE).outcome_batch(7, OUTCOMES)
    assert batch.step == 7
    assert batch.rows.tolist() == [2, 0, 1]
    assert batch.num_right.tolist() == [1, 0, 0]
    assert batch.num_tried.tolist() == [2, 0, 0]
    np.testing.assert_array_equal(batch.mean_response_length, np.array([6, 2, np.nan], np.float32))
    with pytest.raises(DataError, match=r"'z'.*data"):
        PromptIndex(TABLE).rows(["a", "z"])


def test_excluded_prompts_are_not_free_and_strangers_do_not_matter() -> None:
    assert PromptIndex(TABLE).free({"b", "held_out", "stranger"}).tolist() == [True, False, True]


def test_a_window_forgets_the_oldest_and_its_state_goes_on() -> None:
    window = OutcomeWindow(3)
    for step, rows in enumerate([[0], [1, 2], [], [2, 0, 1]]):
        window.append(_batch(step, rows))
    loaded = OutcomeWindow(3)
    loaded.append(_batch(99, [0]))
    loaded.load_state(window.state())
    assert [(b.step, b.rows.tolist(), b.num_right.tolist()) for b in loaded.batches] == [
        (1, [1, 2], [0, 1]),
        (2, [], []),
        (3, [2, 0, 1], [0, 1, 2]),
    ]
    assert concatenate_batches(loaded.batches).rows.tolist() == [1, 2, 2, 0, 1]
    assert len(concatenate_batches([]).rows) == 0


def test_reuse_is_counted() -> None:
    reuse = ReuseCounter(3)
    reuse.observe(np.array([0, 1]))
    reuse.observe(np.array([1, 2]))
    assert reuse.metrics() == {
        "num_unique_prompts": 3.0,
        "groups_per_unique_prompt": pytest.approx(4 / 3),
        "share_seen_before": 0.5,
    }
    assert reuse.seen(np.array([1, 3])).tolist() == [True, False]
    loaded = ReuseCounter(3)
    loaded.load_state(reuse.state())
    assert loaded.metrics() == reuse.metrics()
    with pytest.raises(CheckpointError, match=r"pool of 4 prompts, got 3.*data"):
        ReuseCounter(4).load_state(reuse.state())


def test_outcome_file_says_which_slot_each_group_filled(tmp_path: Path) -> None:
    selections = [
        _selection(0, ("a", "c"), [SlotKind.RANDOM, SlotKind.CHOSEN], [np.nan, 0.25]),
        _selection(1, ("x", "b"), [SlotKind.CHOSEN, SlotKind.CHOSEN], [0.5, 0.75]),
    ]
    segments = Segments(tmp_path / "outcomes")
    assert write_outcomes(segments, 7, OUTCOMES, selections) == "from_step_00000000.arrows"
    write_outcomes(segments, 8, [], [])
    table = read_outcomes(tmp_path / "outcomes")
    assert table.schema == OUTCOME_FILE
    assert table["step"].to_pylist() == [7, 7, 7]
    assert table["prompt_id"].to_pylist() == ["c", "a", "b"]
    assert table["round"].to_pylist() == [0, 0, 1]
    assert table["slot"].to_pylist() == [1, 0, 1]
    assert table["slot_kind"].to_pylist() == [SlotKind.CHOSEN, SlotKind.RANDOM, SlotKind.CHOSEN]
    assert table["num_candidates"].to_pylist() == [3, 3, 2]
    np.testing.assert_array_equal(table["predicted_mean"].to_numpy(), [0.25, np.nan, 0.75])
    (segment,) = read_segments(tmp_path / "outcomes")
    stored = segment.table
    np.testing.assert_array_equal(stored["expected_useful"].to_numpy(), [np.nan, np.nan, 0.1875])
    np.testing.assert_array_equal(stored["text_mean"].to_numpy(), [np.nan] * 3)
    assert stored["num_steps_observed"].to_pylist() == [None, None, 6]
    back = outcomes_from_table(table)
    assert [o.num_tried for o in back] == [2, 0, 0]
    assert back[0].rewards.tolist() == [1.0, 0.0, 0.0]
    assert [path.name for path in (tmp_path / "outcomes").iterdir()] == ["from_step_00000000.arrows"]


def test_outcome_files_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"step 7.*'c'"):
        write_outcomes(Segments(tmp_path), 7, OUTCOMES, [_selection(0, ("a", "b"), [SlotKind.CHOSEN] * 2, [0.5, 0.5])])
    assert read_outcomes(tmp_path).num_rows == 0
    name = write_outcomes(
        Segments(tmp_path), 7, OUTCOMES, [_selection(0, ("a", "b", "c"), [SlotKind.CHOSEN] * 3, [0.5] * 3)]
    )
    assert read_outcomes(tmp_path).num_rows == 3
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-9])
    with pytest.raises(DataError, match=name):
        read_outcomes(tmp_path)
