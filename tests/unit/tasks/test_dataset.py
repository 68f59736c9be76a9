import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.types import Prompt
from gps_ray.config import CountdownConfig, DataConfig, TrainConfig, load_config
from gps_ray.tasks.dataset import load_data, prompt_id, read_prompts, write_prompts

KEY = "data.pool_file"


def _prompt(number: int, level: str = "") -> Prompt:
    text, answer = f"compute {number} + 1 answer", str(number + 1)
    return Prompt(
        prompt_id=prompt_id("arithmetic", text, answer), text=text, answer=answer, task="arithmetic", level=level
    )


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As verl's data scripts do: a data frame of nested Python values, types found by Arrow."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _verl_row(**changes: Any) -> dict[str, Any]:
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "How many apples?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "18"},
        "extra_info": {"split": "train", "index": 0, "answer": "... #### 18", "question": "How many apples?"},
    }
    return {**row, **changes}


# --- identity ----------------------------------------------------------------------------------------------------


def test_prompt_id_is_the_content() -> None:
    # Stands in checkpoints and outcome files: it must never change.
    assert prompt_id("countdown", "numbers 1 2", "3") == PINNED_ID
    assert re.fullmatch("[0-9a-f]{32}", prompt_id("é", "\ud800", "\x00"))
    ids = {
        prompt_id(*parts)
        for parts in [
            ("a", "b", "c"),
            ("ab", "", "c"),
            ("a", "bc", ""),
            ("", "a", "bc"),
            ("a", 'b","', "c"),
            ("A", "b", "c"),
        ]
    }
    assert len(ids) == 6


PINNED_ID = "121350248fe8608bad6f9ce242d5edb3"


# --- files -------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    prompts = tuple(_prompt(number, level=f"L{number % 2}") for number in range(20))
    write_prompts(tmp_path / "a.parquet", prompts, split="test")
    assert read_prompts(tmp_path / "a.parquet", config_key=KEY) == prompts
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert rows[3] == {
        "data_source": "arithmetic",
        "prompt": [{"role": "user", "content": "compute 3 + 1 answer"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": {"index": 3, "level": "L1", "split": "test"},
    }
    write_prompts(tmp_path / "b.parquet", prompts, split="test")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_file_as_verl_writes_it(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "How many pears?"}
    rows = [
        _verl_row(),
        _verl_row(prompt=[system, user], extra_info={"split": "train", "index": 1, "level": 5}),
    ]
    first, second = read_prompts(_write(tmp_path / "verl.parquet", rows), config_key=KEY)
    assert first == Prompt(
        prompt_id=prompt_id("openai/gsm8k", "How many apples?", "18"),
        text="How many apples?",
        answer="18",
        task="openai/gsm8k",
    )
    assert (second.text, second.level) == ("Be brief.\n\nHow many pears?", "5")
    assert [(message.role, message.content) for message in second.chat] == [
        tuple(system.values()),
        tuple(user.values()),
    ]


def test_a_chat_keeps_its_turns_also_as_a_json_string_and_on_the_way_through_a_file(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Reply with the number only."},
        {"role": "user", "content": "1 + 2"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "4 + 5"},
    ]
    (parsed,) = read_prompts(_write(tmp_path / "text.parquet", [_verl_row(prompt=json.dumps(chat))]), config_key=KEY)
    (plain,) = read_prompts(_write(tmp_path / "list.parquet", [_verl_row(prompt=chat)]), config_key=KEY)
    assert parsed == plain
    assert [message.role for message in plain.chat] == ["system", "user", "assistant", "user"]
    write_prompts(tmp_path / "again.parquet", [plain])
    assert read_prompts(tmp_path / "again.parquet", config_key=KEY) == (plain,)
    # The same words in other roles are another prompt.
    (joined,) = read_prompts(_write(tmp_path / "one.parquet", [_verl_row(prompt=plain.text)]), config_key=KEY)
    assert joined.text == plain.text
    assert joined.prompt_id != plain.prompt_id


def test_text_that_only_looks_like_a_chat_stays_text(tmp_path: Path) -> None:
    (prompt,) = read_prompts(_write(tmp_path / "a.parquet", [_verl_row(prompt='[{"x": 1}] + what?')]), config_key=KEY)
    assert (prompt.text, prompt.messages) == ('[{"x": 1}] + what?', ())


@pytest.mark.parametrize(
    "prompt",
    [
        "[{'role': 'user', 'content': 'hi'}]",
        "array([{'content': 'hi', 'role': 'user'}],\n      dtype=object)",
        '{"role": "user", "content": "hi"}',
        "[{'name': None, 'role': 'user', 'content': 'hi'}]",
        '{"messages": [{"role": "user", "content": "hi"}]}',
        '[{"from": "human", "value": "hi"}]',
        json.dumps('[{"role": "user", "content": "hi"}]'),
    ],
)
def test_a_chat_in_another_notation_is_refused_and_not_the_prompt(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(DataError, match=r"row 0 .*expected a prompt of text, or of system"):
        read_prompts(_write(tmp_path / "a.parquet", [_verl_row(prompt=prompt)]), config_key=KEY)


def test_a_last_turn_without_text_is_no_question(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " "}]
    with pytest.raises(DataError, match=r"row 0 .*of which the last is the user's"):
        read_prompts(_write(tmp_path / "a.parquet", [_verl_row(prompt=chat)]), config_key=KEY)


@pytest.mark.parametrize("roles", [["tool", "user"], ["user", "assistant"], ["system"]])
def test_a_chat_that_nobody_can_answer_is_refused_by_row(tmp_path: Path, roles: list[str]) -> None:
    chat = [{"role": role, "content": "text"} for role in roles]
    with pytest.raises(DataError, match=r"row 0 .*system, user, assistant messages"):
        read_prompts(_write(tmp_path / "a.parquet", [_verl_row(prompt=chat)]), config_key=KEY)


def test_a_ground_truth_of_parts_becomes_json(tmp_path: Path) -> None:
    row = _verl_row(
        data_source="countdown", reward_model={"style": "rule", "ground_truth": {"target": 9, "numbers": [4, 5]}}
    )
    (prompt,) = read_prompts(_write(tmp_path / "c.parquet", [row]), config_key=KEY)
    assert prompt.answer == '{"numbers": [4, 5], "target": 9}'
    (prompt,) = read_prompts(
        _write(tmp_path / "d.parquet", [_verl_row(reward_model={"ground_truth": 18})]), config_key=KEY
    )
    assert prompt.answer == "18"


def test_plain_text_prompts_and_no_extra_info(tmp_path: Path) -> None:
    row = _verl_row(prompt="How many apples?")
    del row["extra_info"], row["ability"]
    (prompt,) = read_prompts(_write(tmp_path / "e.parquet", [row]), config_key=KEY)
    assert (prompt.text, prompt.level) == ("How many apples?", "")


def test_other_arrow_encodings_of_the_same_columns(tmp_path: Path) -> None:
    prompts = tuple(_prompt(number) for number in range(5))
    write_prompts(tmp_path / "a.parquet", prompts)
    table = pq.read_table(tmp_path / "a.parquet")
    table = table.set_column(0, "data_source", table["data_source"].dictionary_encode())
    message = pa.struct([("role", pa.large_string()), ("content", pa.large_string())])
    table = table.set_column(1, "prompt", table["prompt"].cast(pa.large_list(message)))
    pq.write_table(table, tmp_path / "b.parquet")
    assert read_prompts(tmp_path / "b.parquet", config_key=KEY) == prompts


def test_duplicates_are_dropped_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [_prompt(1, "first"), _prompt(2), _prompt(1, "again"), _prompt(1), _prompt(3)]
    write_prompts(tmp_path / "a.parquet", rows)
    with caplog.at_level(logging.WARNING):
        prompts = read_prompts(tmp_path / "a.parquet", config_key=KEY)
    assert prompts == (rows[0], rows[1], rows[4])
    assert "data.pool_file: 2 of 5 rows are duplicates" in caplog.text


def _without(column: str) -> dict[str, Any]:
    return {name: value for name, value in _verl_row().items() if name != column}


def _truncated(path: Path) -> None:
    write_prompts(path, [_prompt(number) for number in range(500)])
    path.write_bytes(path.read_bytes()[:-200])


def _damaged(path: Path) -> None:
    write_prompts(path, [_prompt(number) for number in range(500)])
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.mkdir(), "no file"),
        (lambda path: path.write_text("hello"), "not a whole Parquet file"),
        (lambda path: path.write_bytes(b""), "not a whole Parquet file"),
        (_truncated, "not a whole Parquet file"),
        (_damaged, "not a whole Parquet file"),
        (lambda path: write_prompts(path, []), "holds no prompts"),
        (lambda path: _write(path, [_without("prompt")]), "no column 'prompt'"),
        (lambda path: _write(path, [_without("reward_model")]), "no column 'reward_model'"),
        (lambda path: _write(path, [_without("data_source")]), "no column 'data_source'"),
        (lambda path: _write(path, [_verl_row(prompt=3)]), "column 'prompt' of"),
        (lambda path: _write(path, [_verl_row(prompt=["x"])]), "column 'prompt' of"),
        (lambda path: _write(path, [_verl_row(reward_model="18")]), "column 'reward_model' of"),
        (lambda path: _write(path, [_verl_row(data_source=7)]), "column 'data_source' of"),
        (lambda path: _write(path, [_verl_row(), _verl_row(prompt=None)]), "row 1 of"),
        (lambda path: _write(path, [_verl_row(), _verl_row(prompt=[])]), "row 1 of"),
        (lambda path: _write(path, [_verl_row(prompt=[])]), "column 'prompt' of"),
        (lambda path: _write(path, [_verl_row(prompt=[{"role": "assistant", "content": "a"}])]), "row 0 of"),
        (lambda path: _write(path, [_verl_row(prompt=[{"role": "user", "content": None}]), _verl_row()]), "row 0 of"),
        (lambda path: _write(path, [_verl_row(reward_model={"style": "rule"})]), "reward_model.ground_truth"),
        (lambda path: _write(path, [_verl_row(), _verl_row(reward_model=None)]), "row 1 of"),
        (lambda path: _write(path, [_verl_row(data_source=""), _verl_row()]), "expected a data_source"),
    ],
)
def test_unusable_files(tmp_path: Path, make: Callable[[Path], Any], expected: str) -> None:
    make(tmp_path / "f.parquet")
    with pytest.raises(DataError) as caught:
        read_prompts(tmp_path / "f.parquet", config_key="data.heldout_probe_file")
    message = str(caught.value)
    assert message.startswith("data.heldout_probe_file: ")
    assert expected in message
    assert "\n" not in message


# --- the data sets of a run --------------------------------------------------------------------------------------


def _files(tmp_path: Path, **files: list[Prompt]) -> DataConfig:
    for name, prompts in files.items():
        write_prompts(tmp_path / f"{name}.parquet", prompts)
    return DataConfig(task="arithmetic", **{f"{name}_file": tmp_path / f"{name}.parquet" for name in files})


def test_generated_data() -> None:
    config = DataConfig(
        countdown=CountdownConfig(num_pool_prompts=200, num_evaluation_prompts=20, num_heldout_probe_prompts=30)
    )
    data = load_data(config, 16)
    assert [len(s) for s in (data.pool, data.evaluation, data.heldout_probe, data.pool_probe)] == [200, 20, 30, 16]
    assert set(data.pool_probe) < set(data.pool)
    assert data.pool_probe != data.pool[:16]
    assert data.num_duplicates == 0
    assert load_data(config, 16) == data
    none = load_data(config, 0)
    assert (none.pool, none.pool_probe, none.heldout_probe) == (data.pool, (), ())


def test_data_from_files(tmp_path: Path) -> None:
    pool = [_prompt(number) for number in range(20)]
    config = _files(
        tmp_path,
        pool=[*pool, pool[0], pool[1]],
        evaluation=[_prompt(number) for number in range(30, 35)] + [_prompt(30)],
        heldout_probe=[_prompt(number) for number in range(40, 43)],
    )
    data = load_data(config, 4)
    assert data.pool == tuple(pool)
    assert [len(s) for s in (data.evaluation, data.heldout_probe, data.pool_probe)] == [5, 3, 4]
    assert set(data.pool_probe) < set(pool)
    assert data.num_duplicates == 3
    assert load_data(config, 4) == data


def test_a_heldout_probe_is_optional(tmp_path: Path) -> None:
    data = load_data(_files(tmp_path, pool=[_prompt(1), _prompt(2)], evaluation=[_prompt(3)]), 1)
    assert data.heldout_probe == ()


@pytest.mark.parametrize("other", ["evaluation", "heldout_probe"])
def test_overlapping_files_are_refused(tmp_path: Path, other: str) -> None:
    sets = {"pool": [_prompt(1), _prompt(2)], "evaluation": [_prompt(3)], "heldout_probe": [_prompt(4)]}
    sets[other] = [_prompt(5), _prompt(2)]
    with pytest.raises(DataError, match=rf"data\.{other}_file: 1 of 2 prompts are also in data\.pool_file.*compute 2"):
        load_data(_files(tmp_path, **sets), 0)


def test_overlap_is_found_whatever_the_answer_says(tmp_path: Path) -> None:
    same_text = Prompt(prompt_id="x", text="compute 1 + 1 answer", answer="- 2", task="other")
    with pytest.raises(DataError, match="are also in"):
        load_data(_files(tmp_path, pool=[_prompt(1)], evaluation=[same_text]), 0)


def test_an_answer_the_task_cannot_read_is_found_at_once(tmp_path: Path) -> None:
    bad = Prompt(prompt_id="x", text="compute one", answer="two", task="arithmetic")
    config = _files(tmp_path, pool=[_prompt(1)], evaluation=[bad])
    with pytest.raises(DataError, match=r"data\.evaluation_file: expected an arithmetic answer.*'two'.*data\.task"):
        load_data(config, 0)


def test_a_probe_larger_than_the_pool(tmp_path: Path) -> None:
    config = _files(tmp_path, pool=[_prompt(1), _prompt(2)], evaluation=[_prompt(3)])
    with pytest.raises(ConfigError, match=r"evaluation\.num_probe_prompts: .* 3 .* 2; lower"):
        load_data(config, 3)


def test_a_task_without_a_generator_needs_files() -> None:
    task = "tests.unit.tasks.test_registry:Echo"
    with pytest.raises(ConfigError, match=r"data\.task: .*set data\.pool_file and data\.evaluation_file"):
        load_data(DataConfig(task=task), 0)


# --- the config section ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.pool_file=p.parquet"], ["data.evaluation_file: needed with", "set data.evaluation_file"]),
        (["data.train=[{path: p.parquet}]"], ["data.evaluation_file: needed with", "or data.evaluation"]),
        (["data.pool_file=p.parquet", "data.train=[{path: p.parquet}]"], ["data.pool_file: is short for data.train"]),
        (["data.evaluation=[{path: p.csv, weight: 1}, {path: q.csv}]"], ["data.evaluation: some sources have"]),
        (["data.evaluation=[{path: p.csv, verifier: math}]", "data.task=gsm8k"],
         ["data.task: expected by_source", "data.evaluation.0", "math"]),
        (["data.evaluation=[{path: p.csv, verifier: by_source}]"], ["data.evaluation.0.verifier: by_source"]),
        (["data.evaluation=[{path: p.csv, columns: {question: q}}]"],
         ["data.evaluation.0.columns: expected keys out of prompt, answer", "'question'"]),
        (["data.evaluation=[{path: p.csv, colums: {}}]"], ["data.evaluation.0.colums: unknown key; known here: path"]),
        (["data.heldout_probe_file=h.parquet"], ["data.heldout_probe_file: goes with data.pool_file"]),
        (["data.countdown.max_number=60"], ["data.countdown.max_hard_number", "max_number = 60", "got 60"]),
        (["data.arithmetic.max_number=70"], ["data.arithmetic.max_hard_number", "max_number = 70", "got 40"]),
        (["data.countdown.max_target=101"], ["data.countdown.max_target", "100", "got 101"]),
        (["data.countdown.max_hard_number=101"], ["data.countdown.max_hard_number", "got 101"]),
        (["data.task=arithmetic", "data.arithmetic.num_pool_prompts=20"],
         ["selection.num_prompts: 32", "pool of 20", "data.arithmetic.num_pool_prompts"]),
    ],
)  # fmt: skip
def test_impossible_data_sections(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, None, overrides)
    for part in expected:
        assert part in str(caught.value)


def test_only_the_section_of_the_task_counts() -> None:
    config = load_config(TrainConfig, None, ["data.task=arithmetic", "data.countdown.num_pool_prompts=1"])
    assert config.data.num_generated_prompts == 4000
    assert DataConfig(task="package.module:Task").num_generated_prompts is None
