import json
import math
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.types import RolloutStatus
from gps_ray.tasks.dataset import read_prompts, write_prompts
from gps_ray.tasks.raw_files import read_raw, split_off
from gps_ray.tasks.registry import load_task

RAW = {
    "gsm8k": ({"question": "1+1?", "answer": "so\n#### 2"}, "2", "#### 2"),
    "math": ({"problem": "1+1?", "solution": "\\boxed{2}", "level": "Level 1"}, "2", None),
    "deepscaler": ({"problem": "1+1?", "answer": "2", "solution": ""}, "2", None),
    "countdown": ({"nums": [3, 7], "target": 10}, '{"numbers": [3, 7], "target": 10}', "<answer>3 + 7</answer>"),
}


@pytest.mark.parametrize("name", RAW)
def test_a_row_of_each_format_becomes_a_prompt_that_its_source_verifies(name: str, tmp_path: Path) -> None:
    row, answer, response = RAW[name]
    (tmp_path / "raw.jsonl").write_text(json.dumps(row) + "\n")
    prompts, num_unanswered = read_raw([tmp_path / "raw.jsonl"], name)
    assert ([prompt.answer for prompt in prompts], num_unanswered) == ([answer], 0)
    write_prompts(tmp_path / "out.parquet", prompts)
    assert read_prompts(tmp_path / "out.parquet", config_key="data.pool_file") == tuple(prompts)
    if response is not None:
        assert load_task("by_source", {}).verify(prompts[0], response)[1] is RolloutStatus.RIGHT


def test_unanswered_rows_are_counted_and_other_formats_refused(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text('{"problem": "a", "answer": ""}\n{"problem": "b", "answer": "1"}\n')
    prompts, num_unanswered = read_raw([tmp_path / "raw.jsonl"], "deepscaler")
    assert (len(prompts), num_unanswered) == (1, 1)
    with pytest.raises(DataError, match=r"^--in: row 0 of .* is not in the format gsm8k .*columns problem, answer"):
        read_raw([tmp_path / "raw.jsonl"], "gsm8k")
    with pytest.raises(DataError, match=r"^--evaluation-share: "):
        split_off(prompts, 0.5)


@pytest.mark.parametrize(
    ("name", "row", "answer"),
    [
        ("deepscaler", {"problem": "p", "answer": 42.0}, "42"),
        ("deepscaler", {"problem": "p", "answer": "2020-01-01"}, "2020-01-01"),
        ("deepscaler", {"problem": "p", "answer": math.nan}, None),
        ("deepscaler", {"problem": "p", "answer": "  "}, None),
        ("gsm8k", {"question": "q", "answer": "3 and 4 make 7"}, None),
        ("countdown", {"nums": [3.0, 7.0], "target": 10.0}, '{"numbers": [3, 7], "target": 10}'),
    ],
)
def test_an_answer_is_what_was_written_or_none(
    name: str, row: dict[str, Any], answer: str | None, tmp_path: Path
) -> None:
    (tmp_path / "raw.jsonl").write_text(json.dumps(row) + "\n")
    prompts, num_unanswered = read_raw([tmp_path / "raw.jsonl"], name)
    assert [prompt.answer for prompt in prompts] == ([] if answer is None else [answer])
    assert num_unanswered == (answer is None)


@pytest.mark.parametrize(
    ("name", "row"),
    [("deepscaler", {"problem": " ", "answer": "1"}), ("countdown", {"nums": [3.5, 2], "target": 24})],
)
def test_a_row_that_would_be_another_puzzle_is_refused(name: str, row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"^--in: row 0 of .*expected (a question with text|whole numbers), got"):
        read_raw([tmp_path / "raw.jsonl"], name)


def test_a_text_with_two_answers_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"problem": "p", "answer": answer} for answer in ("1", "1", "2")]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts, _ = read_raw([tmp_path / "raw.jsonl"], "deepscaler")
    assert [prompt.answer for prompt in prompts] == ["1"]
    assert "1 rows repeat a text with another answer" in caplog.text
