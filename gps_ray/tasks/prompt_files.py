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
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.base.errors import DataError
from gps_ray.base.types import Message, Prompt
from gps_ray.config import COLUMNS, SourceConfig
from gps_ray.tasks.identity import prompt_id

__all__ = ["SourceRow", "answer_text", "read_prompt", "write_prompts"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """A prompt as the policy is asked it, and the question in it: what the data set itself asks, without system turn
    and without what the config adds, so that two sources with other instructions can be compared."""

    prompt: Prompt
    question: str


def read_prompt(row: Mapping[str, Any], where: str, config_key: str, source: SourceConfig, task: str) -> SourceRow:
    """One row, a mapping of column names to plain values. ``task`` is the data source of rows that name none.

    A chat keeps its messages; one that is stored as a JSON string is parsed, in another notation it is refused. A
    ground truth that is not a string becomes JSON, whole numbers without a decimal point. Raises DataError, one line
    that begins with ``where``, for null, NaN and what JSON has no word for, for text that is no Unicode, and for chats
    that nobody can answer.
    """

    def wrong(what: str) -> DataError:
        return DataError(f"{where}: {what}; mend the row or change {config_key}")

    def value(name: str) -> Any:
        return _at(row, source.columns.get(name, COLUMNS[name]))

    data_source = source.verifier or value("data_source") or task
    if not data_source:
        raise wrong("expected a data_source, got none")
    chat = _chat(value("prompt"))
    if chat is None:
        raise wrong(
            f"expected a prompt of text, or of {', '.join(ROLES)} messages with text of which the last is the user's, "
            f"got {json.dumps(value('prompt'), default=str)[:200]}"
        )
    answer = answer_text(value("answer"))
    if answer is None:
        got = "none" if value("answer") is None else repr(value("answer"))[:80]
        raise wrong(f"expected {source.columns.get('answer', COLUMNS['answer'])} with a ground truth, got {got}")
    for what, text in (*((message.role, message.content) for message in chat), ("ground truth", answer)):
        if not _is_unicode(text):
            raise wrong(f"expected text in Unicode, got half a surrogate pair in the {what}: {text[:80]!r}")
    question = "\n\n".join(message.content for message in chat if message.role != "system")
    chat = _framed(chat, source)
    text = "\n\n".join(message.content for message in chat)
    messages = () if len(chat) == 1 and chat[0].role == "user" else chat
    extra, level = value("extra_info"), value("level")
    extra = {**extra} if isinstance(extra, dict) else {}
    extra |= {column: row.get(column) for column in source.extra_columns}
    prompt = Prompt(
        prompt_id=prompt_id(str(data_source), text, answer, messages),
        text=text,
        answer=answer,
        task=str(data_source),
        level="" if level is None else str(level),
        messages=messages,
        extra_info=extra,
    )
    return SourceRow(prompt=prompt, question=question)


def _at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a part of a struct; None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def answer_text(value: Any) -> str | None:
    """The ground truth as text; None where there is none, where it is no number (pandas' way to say none), and for
    dates, bytes and the like, which everybody writes in another way."""
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value.normalize():f}"
    value = _whole(value)
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, allow_nan=False)
    except (ValueError, TypeError):
        return None
    return None if not text.strip() or text in ("nan", "NaN") else text


def _whole(value: Any) -> Any:
    """Floats that are whole become integers, in structs and lists too."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _whole(part) for name, part in value.items()}
    return [_whole(part) for part in value] if isinstance(value, list) else value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _framed(chat: tuple[Message, ...], source: SourceConfig) -> tuple[Message, ...]:
    """The chat with the system message and the suffix that the config adds."""
    if source.suffix:
        chat = (*chat[:-1], Message(role="user", content=chat[-1].content + source.suffix))
    if source.system and chat[0].role != "system":
        chat = (Message(role="system", content=source.system), *chat)
    return chat


def _chat(prompt: Any) -> tuple[Message, ...] | None:
    """The messages of a prompt; None where it has no text, a role that nobody knows, or no last word of the user's."""
    if isinstance(prompt, str):
        prompt = _parsed(prompt)
    if not prompt or not isinstance(prompt, list) or not all(isinstance(turn, dict) for turn in prompt):
        return None
    messages = []
    for turn in prompt:
        content, role = turn.get("content"), turn.get("role")
        if not isinstance(content, str) or role not in ROLES:
            return None
        messages.append(Message(role=role, content=content))
    is_asked = messages[-1].role == "user" and messages[-1].content.strip()
    return tuple(messages) if is_asked else None


# A chat that was stored as text, in JSON, Python's notation or numpy's: what it begins with behind quotes, what it ends
# with, and its two keys. One that nobody can parse must not be the prompt itself.
_CHAT_BEGINS = re.compile(r"(?:array\()?\s{0,9}\[?\s{0,9}\{\s{0,9}[\"']\w{1,40}[\"']\s{0,9}:")
_CHAT_ENDS = ("}", "]", ")")
_CHAT_KEYS = (("role", "content"), ("from", "value"))


def _is_stored_chat(prompt: str) -> bool:
    text = prompt.strip(" \t\r\n\"'\\").replace("\\", "")
    if not _CHAT_BEGINS.match(text) or not text.endswith(_CHAT_ENDS):
        return False
    return any(all(re.search(f"[\"']{key}[\"']\\s{{0,9}}:", text) for key in keys) for keys in _CHAT_KEYS)


def _parsed(prompt: str) -> Sequence[dict[str, Any]] | None:
    """A chat that was stored as a JSON string, else the string as one user turn; None for one in another notation."""
    if not _is_stored_chat(prompt):
        return [{"role": "user", "content": prompt}]
    try:
        turns = json.loads(prompt)
    except ValueError:
        return None
    return turns if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns) else None
