"""Data as people have it: files of all kinds, folders and hub ids of the datasets library, mixtures, and what is wrong
with a pool as a whole."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import DataConfig, SourceConfig, TrainConfig, load_config
from gps_ray.tasks.dataset import PromptLimit, load_data
from gps_ray.tasks.pool_checks import normalised
from gps_ray.tasks.registry import load_task
from gps_ray.tasks.sources import read_source

QUESTIONS: list[dict[str, Any]] = [
    {"question": "What is 2 + 3?", "solution": {"final": "5"}, "difficulty": 1, "unit": "apples"},
    {"question": "What is 7 - 3?", "solution": {"final": "4"}, "difficulty": 2, "unit": "pears"},
]
COLUMNS = {"prompt": "question", "answer": "solution.final", "level": "difficulty"}


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(path: Path, **keys: Any) -> list[Prompt]:
    return [row.prompt for row in read_source(SourceConfig(path=str(path), **keys), "data.train.0")]


def _write_all(directory: Path) -> dict[str, Path]:
    from datasets import Dataset, DatasetDict

    paths = {"json lines": _json_lines(directory / "a.jsonl", QUESTIONS)}
    paths["json list"] = directory / "a.json"
    paths["json list"].write_text(json.dumps(QUESTIONS))
    paths["parquet"] = directory / "a.parquet"
    pq.write_table(pa.Table.from_pylist(QUESTIONS), paths["parquet"])
    paths["folder"] = directory / "folder"
    Dataset.from_list(QUESTIONS).save_to_disk(paths["folder"])
    paths["folder with splits"] = directory / "splits"
    DatasetDict({"train": Dataset.from_list(QUESTIONS)}).save_to_disk(paths["folder with splits"])
    return paths


def test_every_kind_of_source_gives_the_same_prompts(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"columns": COLUMNS, "verifier": "exact", "extra_columns": ("unit",)}
    for kind, path in _write_all(tmp_path).items():
        first, second = _read(path, **keys)
        assert (first.text, first.answer, first.task, first.level) == ("What is 2 + 3?", "5", "exact", "1"), kind
        assert second.extra_info == {"unit": "pears"}, kind


def test_a_csv_is_text_throughout(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"Agent\'s\nnumber?",007\nPrice?,1.50\n')
    prompts = _read(tmp_path / "a.csv", columns={"prompt": "question", "answer": "answer"}, verifier="exact")
    assert [(p.text, p.answer) for p in prompts] == [("Agent's\nnumber?", "007"), ("Price?", "1.50")]


def test_dates_in_json_lines_stay_as_they_are_written(tmp_path: Path) -> None:
    rows = [{"question": "When?", "answer": "2020-01-01"}]
    (prompt,) = _read(_json_lines(tmp_path / "a.jsonl", rows), columns={"prompt": "question", "answer": "answer"},
                      verifier="exact")  # fmt: skip
    assert prompt.answer == "2020-01-01"


def test_a_system_message_and_a_suffix_are_put_around_the_question(tmp_path: Path) -> None:
    path = _json_lines(tmp_path / "a.jsonl", QUESTIONS[:1])
    (prompt,) = _read(path, columns=COLUMNS, verifier="exact", system="Be brief.", suffix=" In a box.")
    assert [(m.role, m.content) for m in prompt.chat] == [
        ("system", "Be brief."),
        ("user", "What is 2 + 3? In a box."),
    ]


@pytest.mark.parametrize(
    ("truth", "answer"),
    [(42.0, "42"), (1.5, "1.5"), ({"target": 9.0, "numbers": [4.0]}, '{"numbers": [4], "target": 9}')],
)
def test_whole_numbers_stay_whole(tmp_path: Path, truth: Any, answer: str) -> None:
    rows = [{"data_source": "t", "prompt": "q", "reward_model": {"ground_truth": truth}}]
    assert _read(_json_lines(tmp_path / "a.jsonl", rows))[0].answer == answer


@pytest.mark.parametrize(
    ("truth", "answer"),
    [
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([[42.0, 0.3]], pa.list_(pa.float32())), "[42, 0.3]"),
        (pa.array([Decimal("42.00")]), "42"),
        (pa.array([Decimal("1.50")]), "1.5"),
    ],
)
def test_numbers_of_parquet_are_what_was_written(tmp_path: Path, truth: Any, answer: str) -> None:
    pq.write_table(pa.table({"q": ["?"], "a": truth}), tmp_path / "a.parquet")
    (prompt,) = _read(tmp_path / "a.parquet", columns={"prompt": "q", "answer": "a"}, verifier="exact")
    assert prompt.answer == answer


@pytest.mark.parametrize("truth", [datetime.date(2024, 1, 1), b"42"])
def test_what_has_no_one_spelling_is_refused(tmp_path: Path, truth: Any) -> None:
    pq.write_table(pa.table({"q": ["?"], "a": [truth]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 0 .*with a ground truth, got"):
        _read(tmp_path / "a.parquet", columns={"prompt": "q", "answer": "a"}, verifier="exact")


def test_half_a_surrogate_pair_is_refused_by_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x \\ud800", "a": "1"}')
    with pytest.raises(DataError, match=r"row 0 .*expected text in Unicode"):
        _read(tmp_path / "a.jsonl", columns={"prompt": "q", "answer": "a"}, verifier="exact")


@pytest.mark.parametrize("text", ['{"q": "x", "a": "1"}', '[{"q": "x", "a": "1"}]'])
def test_json_with_a_byte_order_mark_is_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8-sig")
    (prompt,) = _read(tmp_path / "a.jsonl", columns={"prompt": "q", "answer": "a"}, verifier="exact")
    assert prompt.text == "x"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("q,a,a\nx,1,2\n")
    else:
        pq.write_table(pa.Table.from_arrays([pa.array([c]) for c in "x12"], names=["q", "a", "a"]), path)
    with pytest.raises(DataError, match=r"2 columns 'a', expected one; .*data\.train\.0"):
        _read(path, columns={"prompt": "q", "answer": "a"}, verifier="exact")


@pytest.mark.parametrize(
    "text",
    ['{"prompt": "a", "answer": "1"}\n{"prompt": "b", "answer": "2", "answer": "3"}', '[{"a": {"b": 1, "b": 2}}]'],
)
def test_a_key_that_stands_twice_in_a_row_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="stands twice in an object"):
        read_source(SourceConfig(path=str(path), verifier="exact", columns={"answer": "answer"}), "data.train")


@pytest.mark.parametrize("truth", [None, float("nan"), "nan", "", [1.0, float("nan")]])
def test_null_and_nan_are_refused_by_row(tmp_path: Path, truth: Any) -> None:
    rows = [{"data_source": "t", "prompt": "q", "reward_model": {"ground_truth": t}} for t in ("1", truth)]
    with pytest.raises(
        DataError, match=r"data\.train\.0: row 1 of .*expected reward_model\.ground_truth with a ground"
    ):
        _read(_json_lines(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "no column 'data_source', only question, .*set data.train.0.columns"),
        ({"columns": {"prompt": "ask"}, "verifier": "math"}, "no column 'ask'"),
        ({"columns": COLUMNS}, "no column 'data_source'.*data.train.0.verifier"),
        ({"columns": COLUMNS, "verifier": "math", "extra_columns": ("x",)}, "no column 'x'"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        _read(_json_lines(tmp_path / "a.jsonl", QUESTIONS), **keys)


def test_unusable_sources_are_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "x"}\n{"question"\n')
    (tmp_path / "deep.jsonl").write_text('{"question": ' + "[" * 200_000 + "\n")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "latin1.csv").write_bytes("question,answer\ncaf\xe9,1\n".encode("latin-1"))
    (tmp_path / "folder").mkdir()
    splits = _write_all(tmp_path / "folder")["folder with splits"]
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    cases = {
        tmp_path / "bad.jsonl": ({"columns": {"prompt": "question", "answer": "question"}}, "line 2 of"),
        tmp_path / "deep.jsonl": ({}, "line 1 of .*nested too deeply"),
        tmp_path / "deep.json": ({}, "cannot read .*nested too deeply"),
        tmp_path / "latin1.csv": ({}, "CSV file with a header line in UTF-8"),
        tmp_path / "none.jsonl": ({}, "no file"),
        tmp_path / "folder": ({}, "no folder of datasets' save_to_disk"),
        splits: ({"split": "test"}, "no split 'test', only train"),
        Path("nobody/no-such-data"): ({}, "hub gave no data set of this name .*save_to_disk"),
    }
    for path, (keys, expected) in cases.items():
        with pytest.raises(DataError, match=expected) as caught:
            _read(path, verifier="exact", **keys)
        assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"hub gave no data set of this name .*OfflineModeIsEnabled"):
        _read(Path("nobody/no-such-data"), verifier="exact")


# --- several sources ---------------------------------------------------------------------------------------------


def _config(*overrides: str) -> DataConfig:
    return load_config(TrainConfig, None, overrides).data


def _numbered(path: Path, count: int, text: str = "Number {}?") -> str:
    return str(_json_lines(path, [{"q": text.format(i), "a": str(i)} for i in range(count)]))


def test_a_mixture_is_judged_by_source_in_one_run(tmp_path: Path) -> None:
    columns = "columns: {prompt: q, answer: a}"
    maths, words = _numbered(tmp_path / "m.jsonl", 9), _numbered(tmp_path / "w.jsonl", 20, "Word {}?")
    test = _numbered(tmp_path / "t.jsonl", 3, "Test {}?")
    data = _config(
        f"data.train=[{{path: {maths}, {columns}, verifier: math, weight: 2}},"
        f" {{path: {words}, {columns}, verifier: 'tests.unit.tasks.test_registry:Echo', weight: 1}}]",
        f"data.evaluation=[{{path: {test}, {columns}, verifier: exact}}]",
    )
    assert data.task == "by_source"
    sets = load_data(data, 4)
    assert sorted(prompt.task for prompt in sets.pool) == ["math"] * 9 + ["tests.unit.tasks.test_registry:Echo"] * 4
    assert (len(sets.evaluation), len(sets.pool_probe)) == (3, 4)
    task = load_task(data.task, data.task_options)
    first = sets.pool[0]
    assert task.verify(first, f"\\boxed{{{first.answer}.0}}")[1] is RolloutStatus.RIGHT
    assert task.verify(sets.evaluation[1], "1")[1] is RolloutStatus.RIGHT
    # What is written to the run folder reads as the same config.
    assert DataConfig.model_validate(data.model_dump(mode="json")) == data


def test_a_maximum_goes_by_content_and_keeps_the_order(tmp_path: Path) -> None:
    columns = {"prompt": "q", "answer": "a"}
    forwards = _json_lines(tmp_path / "f.jsonl", [{"q": f"Number {i}?", "a": str(i)} for i in range(30)])
    backwards = _json_lines(tmp_path / "b.jsonl", [{"q": f"Number {i}?", "a": str(i)} for i in reversed(range(30))])
    pools = [
        load_data(
            DataConfig(
                train=(SourceConfig(path=str(path), columns=columns, verifier="exact", max_prompts=10),),
                evaluation=(
                    SourceConfig(path=_numbered(tmp_path / "t.jsonl", 3, "T {}"), columns=columns, verifier="exact"),
                ),
            ),
            0,
        ).pool
        for path in (forwards, backwards)
    ]
    assert len(pools[0]) == 10
    assert pools[0] == pools[1][::-1]


def test_an_evaluation_set_alone_loads(tmp_path: Path) -> None:
    path = _numbered(tmp_path / "t.jsonl", 3)
    data = load_data(
        _config(f"data.evaluation=[{{path: {path}, columns: {{prompt: q, answer: a}}, verifier: exact}}]"), 4
    )
    assert (data.pool, data.pool_probe, len(data.evaluation)) == ((), (), 3)


# --- checks of the whole pool ------------------------------------------------------------------------------------


def _sets(tmp_path: Path, pool: list[tuple[str, str]], evaluation: list[tuple[str, str]], *more: str) -> DataConfig:
    paths = [
        _json_lines(tmp_path / f"{name}.jsonl", [{"q": text, "a": answer} for text, answer in rows])
        for name, rows in (("pool", pool), ("evaluation", evaluation))
    ]
    rest = "columns: {prompt: q, answer: a}, verifier: exact"
    keys = (f"data.{key}=[{{path: {path}, {rest}}}]" for key, path in zip(("train", "evaluation"), paths, strict=True))
    return _config(*keys, *more)


def test_duplicates_and_contradictions_are_listed(tmp_path: Path) -> None:
    pool = [("a?", "1"), ("a?", "1"), ("b?", "2"), ("b?", "3"), ("c?", "4")]
    data = load_data(_sets(tmp_path, pool, [("d?", "1")]), 0)
    assert len(data.pool) == 4
    assert data.num_duplicates == 1
    duplicates, contradictory = data.notes
    assert "data.train.0: 1 of 5 rows are duplicates" in duplicates
    assert (
        "data.train: 1 prompts have contradictory answers, all are kept: 'b?' has the answers '2', '3'" in contradictory
    )


@pytest.mark.parametrize(
    "again", ["what is  THE sum of 1 + 2 ", "What is the sum of 1 + 2", '"What" is the sum of 1 + 2?']
)
def test_evaluation_prompts_that_are_in_the_pool_but_for_their_spelling_are_an_error(
    tmp_path: Path, again: str
) -> None:
    with pytest.raises(DataError, match=r"data\.evaluation: 1 of 2 prompts are also in data\.train"):
        load_data(_sets(tmp_path, [("What is the sum of 1 + 2?", "3")], [("other", "1"), (again, "3")]), 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1 + 2", "1 - 2"), ("is 1.5", "is 15"), ("n!", "n"), ("f'(2)", "f(2)"), ("5!", "5"), ("1 2", "12"), ("0.5", "5")],
)
def test_what_makes_another_question_is_kept(one: str, other: str) -> None:
    assert normalised(f"What is {one}?") != normalised(f"What is {other}?")


def test_a_leak_is_found_under_another_instruction(tmp_path: Path) -> None:
    config = _sets(tmp_path, [("a?", "1")], [("A ?", "1")])
    evaluation = (config.evaluation[0].model_copy(update={"suffix": " Think.", "system": "S"}),)
    with pytest.raises(DataError, match="also in"):
        load_data(config.model_copy(update={"evaluation": evaluation}), 0)


def _limit(pool: int, evaluation: int) -> PromptLimit:
    def words(prompts: Any) -> Any:
        return np.array([len(prompt.text.split()) for prompt in prompts])

    return PromptLimit(pool=pool, evaluation=evaluation, lengths=words, why="a test")


def test_overlong_prompts_are_dropped_and_counted_or_refused(tmp_path: Path) -> None:
    config = _sets(tmp_path, [("a b", "1"), ("a b c", "2"), ("a b c d", "3")], [("x y z", "1")])
    data = load_data(config, 0, _limit(2, 3))
    assert [prompt.text for prompt in data.pool] == ["a b"]
    assert data.num_overlong == 2
    assert (
        "data.train.0: 2 of 3 prompts are longer than 2 tokens (a test), the longest 4 (the first: 'a b c'"
        in data.notes[0]
    )
    with pytest.raises(DataError, match=r"2 of 3 prompts are longer .*data\.overlong_prompts=drop"):
        load_data(config.model_copy(update={"overlong_prompts": "refuse"}), 0, _limit(2, 3))
    with pytest.raises(DataError, match="1 of 1 prompts are longer than 2"):
        load_data(config, 0, _limit(4, 2))
