"""Allocation on recorded outcomes: reading the table, the split, and that knowledge pays where there is some."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gps_ray.allocation.comparison import ALLOCATORS, AllocationSettings, summarise, summary_rows
from gps_ray.allocation.static import run_static, split_recorded
from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.keyed_random import generator
from gps_ray.config import SelectionConfig
from gps_ray.predictor.recorded import RecordedOutcomes, read_recorded, write_recorded
from tests.unit.allocation.levels import PROVIDER

NUM_PROMPTS, NUM_TRIES = 600, 64
# Level by level: hopeless, hard, middling, sure.
RATES = (0.0, 0.1, 0.4, 0.98)


def _write(file: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def _recorded() -> RecordedOutcomes:
    levels = np.arange(NUM_PROMPTS) % len(RATES)
    num_right = generator(0, "test").binomial(NUM_TRIES, np.array(RATES)[levels])
    return RecordedOutcomes(
        prompts=tuple(f"level {level} number {i}" for i, level in enumerate(levels)),
        num_right=num_right,
        num_tried=np.full(NUM_PROMPTS, NUM_TRIES),
    )


def _selection(tmp_path: Path) -> SelectionConfig:
    return SelectionConfig.model_validate(
        {
            "selector": "pcl",
            "pcl": {"updates_per_step": 60, "hidden_dim": 16, "learning_rate": 0.01},
            "features": {"provider": PROVIDER, "cache_directory": str(tmp_path / "features")},
        }
    )


def test_a_predictor_that_knows_levels_gains_and_the_oracle_bounds_it(tmp_path: Path) -> None:
    settings = AllocationSettings(budgets=(2, 4), num_bins=6)
    result = run_static(_recorded(), _selection(tmp_path), settings, seed=0)
    assert result.spearman > 0.85
    assert 90 < result.num_prompts < 150
    for found in result.results.values():
        assert set(found) == set(ALLOCATORS)
        assert found["equal"].points_gained == 0
        # All texts are about equally long: their length tells nothing.
        assert abs(found["length_bins"].points_gained) < 1.5
        for name in ("predicted_bins", "expected_gain"):
            assert 3 < found[name].points_gained <= found["oracle"].points_gained + 1e-9
            assert 0.1 < found[name].samples_saved <= found["oracle"].samples_saved + 0.05


def test_the_result_is_a_function_of_the_seed(tmp_path: Path) -> None:
    settings = AllocationSettings(budgets=(2,), num_bins=4)
    first = run_static(_recorded(), _selection(tmp_path), settings, seed=0, num_labels=200)
    again = run_static(_recorded(), _selection(tmp_path), settings, seed=0, num_labels=200)
    other = run_static(_recorded(), _selection(tmp_path), settings, seed=1, num_labels=200)
    assert first == again
    assert first.results != other.results


def test_no_prompt_is_in_two_parts_and_a_text_is_held_out_wherever_it_stands() -> None:
    recorded = _recorded()
    split = split_recorded(recorded, seed=3, num_labels=200)
    assert (len(split.train), len(split.bins)) == (150, 50)
    everything = np.concatenate([split.train, split.bins, split.held_out])
    assert len(set(everything.tolist())) == len(everything)
    turned = split_recorded(recorded.take(np.arange(NUM_PROMPTS)[::-1]), seed=3)
    assert sorted(NUM_PROMPTS - 1 - turned.held_out) == split.held_out.tolist()
    assert len(turned.train) + len(turned.bins) + len(turned.held_out) == NUM_PROMPTS
    assert split_recorded(recorded, seed=4).held_out.tolist() != split.held_out.tolist()


def test_a_minimum_is_given_to_every_prompt(tmp_path: Path) -> None:
    free = run_static(_recorded(), _selection(tmp_path), AllocationSettings(budgets=(2,)), seed=0)
    bound = run_static(_recorded(), _selection(tmp_path), AllocationSettings(budgets=(2,), minimum=2), seed=0)
    assert free.results[2]["oracle"].points_gained > 0
    assert {name: round(found.points_gained, 9) for name, found in bound.results[2].items()} == dict.fromkeys(
        ALLOCATORS, 0.0
    )


def test_the_summary_has_intervals_over_seeds_and_is_json(tmp_path: Path) -> None:
    settings = AllocationSettings(budgets=(2,))
    seeds = [run_static(_recorded(), _selection(tmp_path), settings, seed) for seed in range(2)]
    summary = json.loads(json.dumps(summarise(seeds)))
    oracle = summary["budgets"]["2"]["oracle"]["points_gained"]
    values = [seed.results[2]["oracle"].points_gained for seed in seeds]
    assert oracle["mean"] == pytest.approx(np.mean(values))
    assert oracle["low"] < min(values) <= max(values) < oracle["high"]
    assert summarise(seeds[:1])["spearman"]["low"] is None
    rows = summary_rows(summary)
    assert [row[:2] for row in rows] == [("2", name) for name in ALLOCATORS]
    assert rows[0][3] == "+0.0 [+0.0, +0.0]"
    alone = summary_rows(summarise(seeds[:1]))
    assert not any("[" in cell or "?" in cell for row in alone for cell in row)  # one seed bounds nothing
    assert alone[0][3] == "+0.0"


@pytest.mark.parametrize("budgets", [(0,), (2, 65)])
def test_a_budget_outside_the_bounds_is_refused(budgets: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="--budgets"):
        AllocationSettings(budgets=budgets, minimum=1)


@pytest.mark.parametrize("num_prompts", [2, 20])
def test_too_few_prompts_are_refused(tmp_path: Path, num_prompts: int) -> None:
    few = _recorded().take(np.arange(num_prompts))
    with pytest.raises(DataError, match="too few"):
        run_static(few, _selection(tmp_path), AllocationSettings(), seed=0)


def test_rows_of_the_same_prompt_are_added_up(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "a.parquet", prompt=["x", "y", "x"], successes=[1, 0, 4], rollouts=[8, 8, 4], more=[1, 2, 3]
    )
    recorded = read_recorded(file)
    assert recorded.prompts == ("x", "y")
    assert recorded.num_right.tolist() == [5, 0]
    assert recorded.num_tried.tolist() == [12, 8]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": ["x"], "successes": [1]}, "rollouts"),
        ({"prompt": ["x"], "successes": [[1, 2]], "rollouts": [8]}, "successes must hold integers"),
        ({"prompt": [1], "successes": [1], "rollouts": [8]}, "prompt must hold strings"),
        ({"prompt": ["x", None], "successes": [1, 1], "rollouts": [8, 8]}, "prompt must hold strings without gaps"),
        ({"prompt": ["x", "y"], "successes": [1, 9], "rollouts": [8, 8]}, "row 1 has 9 successes of 8"),
        ({"prompt": ["x"], "successes": [0], "rollouts": [0]}, "row 0 has 0 successes of 0"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    file = _write(tmp_path / "bad.parquet", **columns)
    with pytest.raises(DataError, match=message) as caught:
        read_recorded(file)
    assert "bad.parquet" in str(caught.value)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    recorded = _recorded().take(np.arange(5))
    write_recorded(recorded, tmp_path / "deep" / "a.parquet")
    again = read_recorded(tmp_path / "deep" / "a.parquet")
    assert again.prompts == recorded.prompts
    np.testing.assert_array_equal(again.num_right, recorded.num_right)
    np.testing.assert_array_equal(again.num_tried, recorded.num_tried)


def test_a_file_that_is_not_there_or_not_whole_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet"):
        read_recorded(tmp_path / "none.parquet")
    file = _write(tmp_path / "cut.parquet", prompt=["x"], successes=[1], rollouts=[8])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cut\.parquet"):
        read_recorded(file)
