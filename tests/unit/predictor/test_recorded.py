"""Reading recorded series, and which prompts two tables share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gps_ray.base.errors import DataError
from gps_ray.predictor.recorded import NUM_POINTS, RecordedOutcomes, normalised_text, read_series, without_overlap
from tests.loop.replay.tables import write

GOOD: dict[str, Any] = {"prompt": ["a", "b"], "successes": [[1, 2, 3], [0, 8, 4]], "rollouts_per_point": [8, 8]}


def test_a_series_as_written(tmp_path: Path) -> None:
    series = read_series(write(tmp_path / "a.parquet", **GOOD, answer=["1", "2"]))
    assert series.prompts == ("a", "b")
    assert series.num_right.tolist() == [[1, 2, 3], [0, 8, 4]]
    assert series.num_tried.tolist() == [8, 8]
    assert series.group_size == 8


def test_the_common_points_in_time_are_replayed_44_at_most(tmp_path: Path) -> None:
    rows = {"successes": [[1, 2, 3], [4, 5]]}
    assert read_series(write(tmp_path / "a.parquet", **{**GOOD, **rows})).num_right.tolist() == [[1, 2], [4, 5]]
    rows = {"successes": [list(range(8)) * 7, [0] * 57]}
    series = read_series(write(tmp_path / "b.parquet", **{**GOOD, **rows}))
    assert series.num_right.shape == (2, NUM_POINTS)
    assert series.num_right[0, -1] == 43 % 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"successes": None}, "no column successes; expected a Parquet file with columns prompt, successes"),
        ({"rollouts_per_point": None, "prompt": None}, "no column prompt, rollouts_per_point"),
        ({"successes": [1, 2]}, "column successes must hold lists of integers without gaps, got int64"),
        ({"successes": [[0.5, 0.1], [0.0, 1.0]]}, "lists of integers without gaps, got list<"),
        ({"successes": [[1, 2], None]}, "column successes must hold"),
        ({"successes": [[1, None], [1, 2]]}, "gaps inside its lists"),
        ({"successes": [[1, 9], [1, 2]]}, "row 0 has successes [1, 9] of 8 rollouts per point"),
        ({"successes": [[1, 2], [1, -2]]}, "row 1 has successes [1, -2]"),
        ({"rollouts_per_point": [8, 0], "successes": [[1, 2], [0, 0]]}, "row 1 has successes [0, 0] of 0"),
        ({"successes": [[1], [1, 2]]}, "at least 2 points in time, got a prompt with 1"),
        ({"prompt": [1, 2]}, "column prompt must hold strings without gaps, got int64"),
        ({"prompt": ["a", None]}, "column prompt must hold strings without gaps"),
        ({"rollouts_per_point": [8.0, 8.0]}, "column rollouts_per_point must hold integers"),
    ],
)
def test_a_table_that_cannot_be_replayed_says_why_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    columns = {name: values for name, values in {**GOOD, **changes}.items() if values is not None}
    file = write(tmp_path / "bad.parquet", **columns)
    with pytest.raises(DataError) as error:
        read_series(file)
    assert message in str(error.value)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_or_empty(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("prompt,successes\n")
    for file in (tmp_path / "absent.parquet", tmp_path / "text.parquet", tmp_path):
        with pytest.raises(DataError, match="expected a Parquet file with columns") as error:
            read_series(file)
        assert "\n" not in str(error.value)
    empty: Any = pa.array([], pa.string()), pa.array([], pa.list_(pa.int64())), pa.array([], pa.int64())
    file = write(tmp_path / "empty.parquet", **dict(zip(GOOD, empty, strict=True)))
    with pytest.raises(DataError, match="got no prompt"):
        read_series(file)


def test_copies_of_a_prompt_are_known_by_their_letters_and_digits() -> None:
    assert normalised_text("Find  $x$ if 2x=4.") == normalised_text("find x, if 2X = 4")
    assert normalised_text("① Café") == normalised_text("1 CAFÉ")
    assert normalised_text("x = 4") != normalised_text("x = 5")
    recorded = RecordedOutcomes(
        prompts=("What is 1 + 1?", "other", "more"), num_right=np.array([1, 2, 3]), num_tried=np.array([4, 4, 5])
    )
    kept = without_overlap(recorded, ["what is 1+1", "unrelated"])
    assert kept.prompts == ("other", "more")
    assert kept.num_right.tolist() == [2, 3]
    assert kept.num_tried.tolist() == [4, 5]
