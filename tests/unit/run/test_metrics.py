"""Reductions against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.types import ChunkHeader, GroupFailure, Selection, SlotKind
from gps_ray.run.metrics import METRICS, group_counts, markdown_table, read_metrics, rollouts_saved, step_metrics


def header(
    chunk_id: int, ids: str, right: list[int], wrong: list[int], failed: list[int], **more: object
) -> ChunkHeader:
    values = {
        "chunk_id": chunk_id,
        "step": 3,
        "stream": "rollout",
        "policy_version": 2,
        "prompt_ids": tuple(ids),
        "num_right": np.array(right, np.int32),
        "num_wrong": np.array(wrong, np.int32),
        "num_failed": np.array(failed, np.int32),
        "num_truncated": np.zeros(len(ids), np.int32),
        "num_response_tokens": np.full(len(ids), 20, np.int32),
        "reward_sum": np.array(right, np.float32),
        "cpu_s": 1.0,
        "wall_s": 1.0,
    }
    return ChunkHeader(**(values | more))


def selection(round_: int, ids: str, kinds: list[int], predicted: list[float]) -> Selection:
    return Selection(
        step=3,
        round=round_,
        prompt_ids=tuple(ids),
        num_rollouts=np.full(len(ids), 4, np.int32),
        predicted_mean=np.array(predicted),
        predicted_std=np.zeros(len(ids)),
        slot_kind=np.array(kinds, np.int8),
        num_candidates=10,
    )


CHOSEN, RANDOM = int(SlotKind.CHOSEN), int(SlotKind.RANDOM)
FIRST = header(0, "ab", [2, 4], [2, 0], [0, 0])
SECOND = header(
    1,
    "cd",
    [0, 1],
    [4, 1],
    [0, 2],
    num_truncated=np.array([3, 1], np.int32),
    num_verifier_notes=3,
    failures=(GroupFailure(prompt_id="e", reason="engine"),),
)
SELECTIONS = [
    selection(0, "abe", [CHOSEN, RANDOM, CHOSEN], [0.5, 0.75, 0.5]),
    selection(1, "cd", [CHOSEN, CHOSEN], [0.25, float("nan")]),
]


def test_one_step_by_hand() -> None:
    metrics = step_metrics([FIRST, SECOND], SELECTIONS, ["a", "d"])
    assert metrics == pytest.approx(
        {
            "reward/mean": 7 / 14,
            "reward/pass_rate": 7 / 14,
            "response_length/mean": 80 / 16,
            "selection/num_groups": 4,
            "selection/num_admitted": 2,
            "selection/num_rounds": 2,
            "selection/num_candidates": 20,
            "selection/useful_group_ratio": 2 / 4,
            "selection/useful_group_ratio_chosen": 2 / 3,
            "selection/useful_group_ratio_random": 0.0,
            "selection/largest_group": 4,
            "selection/num_all_right": 1,
            "selection/num_all_wrong": 1,
            "selection/prediction_bias": ((0.5 - 0.5) + (0.75 - 1.0) + (0.25 - 0.0)) / 3,
            "rollout/num_rollouts": 16,
            "rollout/num_tokens": 80,
            "rollout/num_failed": 2,
            "rollout/num_verifier_notes": 3,
            "rollout/truncated_ratio": 4 / 16,
            "rollout/num_failed_groups": 1,
        }
    )


def test_what_uniform_selection_would_have_taken_is_estimated_by_the_random_slots() -> None:
    assert group_counts([FIRST, SECOND], SELECTIONS) == {
        "cost/num_groups": 4,
        "cost/num_useful_groups": 2,
        "cost/num_random_groups": 1,
        "cost/num_useful_random_groups": 0,
    }
    counters = {
        "cost/num_groups": 320,
        "cost/num_useful_groups": 192,
        "cost/num_random_groups": 40,
        "cost/num_useful_random_groups": 12,
        "cost/num_rollouts": 2560,
    }
    # 60 % useful, 30 % of the random slots: uniform selection would take twice as many.
    assert rollouts_saved(counters) == {"selection/rollouts_saved_estimate": pytest.approx(2560)}
    assert rollouts_saved({**counters, "cost/num_random_groups": 31}) == {}
    assert rollouts_saved({**counters, "cost/num_useful_random_groups": 0}) == {}
    assert rollouts_saved({}) == {}
    uniform = {**counters, "cost/num_random_groups": 320, "cost/num_useful_random_groups": 192}
    assert rollouts_saved(uniform) == {"selection/rollouts_saved_estimate": 0.0}


def test_a_failed_rollout_is_not_a_wrong_one() -> None:
    only_failures = step_metrics([header(0, "a", [0], [0], [4])], SELECTIONS, [])
    assert "reward/pass_rate" not in only_failures
    assert only_failures["selection/num_all_wrong"] == 0
    assert only_failures["rollout/num_failed"] == 4


def test_the_order_of_arrival_changes_nothing() -> None:
    sums = [0.1, 0.7, 1e8, -1e8]
    uneven = [header(i, "abcd"[i], [1], [3], [0], reward_sum=np.array([x])) for i, x in enumerate(sums)]
    assert step_metrics(uneven, SELECTIONS, []) == step_metrics(uneven[::-1], SELECTIONS, [])


def test_a_step_without_groups_has_counts_and_no_rates() -> None:
    metrics = step_metrics([], [], [])
    assert metrics["selection/num_groups"] == 0
    assert "selection/useful_group_ratio" not in metrics
    assert "reward/mean" not in metrics


def test_a_group_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="no selection asked for, the first z"):
        step_metrics([header(0, "z", [1], [3], [0])], SELECTIONS, [])


def test_every_step_metric_is_in_the_reference() -> None:
    assert set(step_metrics([FIRST, SECOND], SELECTIONS, ["a"])) <= set(METRICS)
    table = markdown_table()
    assert all(f"| `{name}` |" in table for name in METRICS)
    assert all(metric.meaning for metric in METRICS.values())


def test_read_merges_lines_of_a_step_and_drops_what_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 2, "b": 3}, {"step": 0, "a": 1.5}, {"step": 2, "a": 2, "b": 4, "bad": float("nan"), "none": None}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "a"')
    assert read_metrics(path) == [{"step": 0, "a": 1.5}, {"step": 2, "a": 2, "b": 4}]


@pytest.mark.parametrize("line", ["[1, 2]", '{"a": 1}', "not json", '{"step": null}', '{"step": 1e400}', "[" * 200_000])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2 is not a metrics object"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read metrics"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_the_docs_list_every_metric() -> None:
    docs = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert docs.read_text().endswith(markdown_table()), "write markdown_table() into docs/metrics.md"


def test_an_old_name_is_read_as_the_new_one_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    line = {"selection/effective_group_ratio": 0.5, "predictor/pool_probe_zero_variance_auc": 0.7}
    path.write_text("".join(json.dumps({"step": step, **line}) + "\n" for step in range(3)))
    rows = read_metrics(path)
    assert rows[2] == {"step": 2, "selection/useful_group_ratio": 0.5, "predictor/pool_probe_useful_auc": 0.7}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "selection/effective_group_ratio is selection/useful_group_ratio now" in said[0]
