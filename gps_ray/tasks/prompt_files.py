"""Prompts as Parquet files with the columns that verl and its data-set scripts use.

============  =======================================  ===================================================
column        type                                     meaning
============  =======================================  ===================================================
data_source   string                                   becomes ``Prompt.task``
prompt        string, or list<struct<role, content>>   becomes ``Prompt.messages`` and ``Prompt.text``
reward_model  struct<style, ground_truth, ...>         ``ground_truth`` becomes ``Prompt.answer``
ability       string                                   written, not read
extra_info    struct<index, level, ...>; optional      ``level`` becomes ``Prompt.level``, all of it
                                                       ``Prompt.extra_info``
============  =======================================  ===================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.base.errors import DataError, one_line
from gps_ray.base.types import Message, Prompt
from gps_ray.tasks.identity import prompt_id

__all__ = ["read_rows", "write_prompts"]

ROLES = ("system", "user", "assistant")

_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct([("index", pa.int64()), ("level", pa.string()), ("split", pa.string())])),
    ]
)


def write_prompts(path: Path, prompts: Iterable[Prompt], split: str = "train") -> None:
    """Write prompts so that verl reads them, and ``read_prompts`` gets the same prompts back."""
    rows = [
        {
            "data_source": prompt.task,
            "prompt": [{"role": message.role, "content": message.content} for message in prompt.chat],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": prompt.answer},
            "extra_info": {"index": index, "level": prompt.level, "split": split},
        }
        for index, prompt in enumerate(prompts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)


def read_rows(path: Path, config_key: str) -> list[Prompt]:
    """Every row of the file in its order, duplicates and all.

    A chat keeps its messages; one that is stored as a JSON string is parsed. A ground truth that is not a string
    becomes JSON. Raises DataError, one line that names ``config_key``.
    """
    table = _read_table(path, config_key)
    for column, types, expected in _EXPECTED:
        if column in table.column_names and not types(table.schema.field(column).type):
            raise DataError(
                f"{config_key}: column {column!r} of {path} must be {expected}, got "
                f"{table.schema.field(column).type}; rewrite the column or change {config_key}"
            )
    rows = table.select([name for name in _READ if name in table.column_names]).to_pylist()
    if not rows:
        raise DataError(f"{config_key}: {path} holds no prompts; give a file with at least one row as {config_key}")
    return [_prompt(row, f"{config_key}: row {index} of {path}", config_key) for index, row in enumerate(rows)]


def _read_table(path: Path, config_key: str) -> pa.Table:
    remedy = f"give a Parquet file with columns {', '.join(_REQUIRED)} as {config_key}"
    if not path.is_file():
        raise DataError(f"{config_key}: no file {path}; {remedy}")
    try:
        names = pq.read_schema(path).names
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise DataError(f"{config_key}: {path} has no column {missing[0]!r}, only {', '.join(names)}; {remedy}")
        return pq.read_table(path, columns=[name for name in _READ if name in names], partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{config_key}: {path} is not a whole Parquet file ({one_line(error)}); {remedy}") from error


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_dictionary_of_text(kind))


def _is_dictionary_of_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind)) and _is_text(kind.value_type)


def _is_prompt(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(
        (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type)
    )


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))


_REQUIRED = ("data_source", "prompt", "reward_model")
_READ = (*_REQUIRED, "extra_info")
_EXPECTED = (
    ("data_source", _is_text, "a string"),
    ("prompt", _is_prompt, "a string or a list of {role, content}"),
    ("reward_model", _is_struct, "a struct with ground_truth"),
)


def _prompt(row: dict[str, Any], where: str, config_key: str) -> Prompt:
    def wrong(what: str) -> DataError:
        return DataError(f"{where}: {what}; mend the row or change {config_key}")

    task = row["data_source"]
    if not task:
        raise wrong("expected a data_source, got none")
    chat = _chat(row["prompt"])
    if chat is None:
        raise wrong(
            f"expected a prompt of text, or of {', '.join(ROLES)} messages with text of which the last is the user's, "
            f"got {json.dumps(row['prompt'], default=str)[:200]}"
        )
    text = "\n\n".join(message.content for message in chat)
    messages = () if len(chat) == 1 and chat[0].role == "user" else chat
    ground_truth = (row["reward_model"] or {}).get("ground_truth")
    if ground_truth is None:
        raise wrong("expected reward_model.ground_truth, got none")
    answer = ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth, sort_keys=True, default=str)
    extra = row.get("extra_info")
    level = extra.get("level") if isinstance(extra, dict) else None
    return Prompt(
        prompt_id=prompt_id(task, text, answer, messages),
        text=text,
        answer=answer,
        task=task,
        level="" if level is None else str(level),
        messages=messages,
        extra_info=extra if isinstance(extra, dict) else {},
    )


def _chat(prompt: str | Sequence[dict[str, Any]] | None) -> tuple[Message, ...] | None:
    """The messages of a prompt; None where it has no text, a role that nobody knows, or no last word of the user's."""
    if isinstance(prompt, str):
        prompt = _parsed(prompt)
    if not prompt:
        return None
    messages = []
    for turn in prompt:
        content, role = (turn or {}).get("content"), (turn or {}).get("role")
        if not isinstance(content, str) or role not in ROLES:
            return None
        messages.append(Message(role=role, content=content))
    is_asked = messages[-1].role == "user" and any(message.content for message in messages)
    return tuple(messages) if is_asked else None


def _parsed(prompt: str) -> Sequence[dict[str, Any]]:
    """A chat that was stored as a JSON string, else the string as one user turn."""
    if prompt.lstrip().startswith("[{"):
        try:
            turns = json.loads(prompt)
        except ValueError:
            turns = None
        if isinstance(turns, list) and all(isinstance(turn, dict) and "role" in turn for turn in turns):
            return turns
    return [{"role": "user", "content": prompt}]
