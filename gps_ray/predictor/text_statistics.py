"""What a text's form says about its difficulty: lengths, notation, the numbers in it. No vocabulary, no model.

Cheap hand-made features of any prompt text. On recorded maths outcomes the lengths alone rank unseen prompts better
than word vectors do; on generated arithmetic the numbers do.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import numpy as np

from gps_ray.base.types import FloatArray

__all__ = ["LENGTHS", "NAMES", "text_statistics"]

_TOKEN = re.compile(r"[a-zA-Z]+|\\[a-zA-Z]+|\d+(?:\.\d+)?|[^\sa-zA-Z\d]")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_UPPER_CASE = str.maketrans("", "", string.ascii_uppercase)
_DIGITS = str.maketrans("", "", string.digits)
_ASCII = re.compile(r"[\x00-\x7f]+")
_NOTATION = "$=(^_{?.,\n-+<|*/"
_MAX_NUMBERS = 32
_NUM_LARGEST = 4
# Texts, so that the numbers of a large pool are not all in memory as Python's.
_AT_ONCE = 4096

# The columns of ``text_statistics``: the lengths come first.
LENGTHS = ("characters", "words", "tokens", "commands", "distinct_commands", "numbers")
NAMES: tuple[str, ...] = (
    *LENGTHS,
    "letters_per_word",
    "distinct_word_share",
    *(f"count_{character!r}" for character in _NOTATION),
    "upper_case_share",
    "digit_share",
    "non_ascii_share",
    "number_min",
    "number_mean",
    "number_std",
    "number_first",
    "number_last",
    *(f"number_largest_{rank}" for rank in range(1, _NUM_LARGEST + 1)),
    "last_against_sum",
    "even_share",
)

# The columns of a text's form that are counts: shares stay as they are.
_IN_LOGS = [
    column for column, name in enumerate(NAMES) if name in (*LENGTHS, "letters_per_word") or name.startswith("count_")
]


def text_statistics(texts: Sequence[str]) -> FloatArray:
    """[N, len(NAMES)] float64, counts and magnitudes as log(1 + x). An empty text has zeros only."""
    parts = [_of_part(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
    return np.concatenate([np.zeros((0, len(NAMES))), *parts])


def _of_part(texts: Sequence[str]) -> FloatArray:
    numbers = [_NUMBER.findall(text) for text in texts]
    form = np.array([_of_form(text, len(found)) for text, found in zip(texts, numbers, strict=True)], dtype=np.float64)
    form[:, _IN_LOGS] = np.log1p(form[:, _IN_LOGS])
    return np.concatenate([form, _of_numbers(numbers)], axis=1)


def _of_form(text: str, num_numbers: int) -> list[float]:
    """Counts are no logs yet."""
    tokens = _TOKEN.findall(text)
    words = [*filter(str.isalpha, tokens)]
    commands = [token for token in tokens if token[0] == "\\" and len(token) > 1] if "\\" in text else []
    num_words, num_characters = max(len(words), 1), max(len(text), 1)
    # Nearly all characters are ASCII, and those are counted without a loop in Python: a pool has 1e8 of them.
    others = "" if text.isascii() else _ASCII.sub("", text)
    # A digit that is no decimal, such as a raised two, is a number of its own.
    num_numbers += sum(character.isdigit() and not character.isdecimal() for character in others)
    return [
        *(len(text), len(words), len(tokens), len(commands), len(set(commands)), num_numbers),
        sum(map(len, words)) / num_words,
        len(set(words)) / num_words,
        *map(text.count, _NOTATION),
        (_num_in(_UPPER_CASE, text) + sum(map(str.isupper, others))) / num_characters,
        (_num_in(_DIGITS, text) + sum(map(str.isdigit, others))) / num_characters,
        len(others) / num_characters,
    ]


def _num_in(deleted: dict[int, int | None], text: str) -> int:
    return len(text) - len(text.translate(deleted))


def _of_numbers(found: Sequence[Sequence[str]]) -> FloatArray:
    """[N, 11]: magnitudes of at most 32 numbers per text, in logs (a longer one is cut off at the largest float).
    Texts with as many numbers are taken at once."""
    numbers = [[*map(float, text[:_MAX_NUMBERS])] or [0.0] for text in found]
    counts = np.array([len(row) for row in numbers])
    columns = np.empty((len(numbers), _NUM_LARGEST + 7))
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        columns[rows] = _of_as_many([numbers[row] for row in rows])
    return columns


def _of_as_many(numbers: Sequence[Sequence[float]]) -> FloatArray:
    values = np.minimum(np.array(numbers), np.finfo(np.float64).max)
    logs = np.log1p(values)
    largest = np.zeros((len(values), _NUM_LARGEST))
    ordered = np.sort(logs, axis=1)[:, ::-1][:, :_NUM_LARGEST]
    largest[:, : ordered.shape[1]] = ordered
    with np.errstate(over="ignore"):
        rest = np.log1p(np.minimum(values[:, :-1].sum(axis=1), np.finfo(np.float64).max))
    even = np.where(values.any(axis=1), np.mean(np.mod(values, 2.0) == 0.0, axis=1), 0.0)
    spread = [logs.min(axis=1), logs.mean(axis=1), logs.std(axis=1), logs[:, 0], logs[:, -1]]
    return np.column_stack([*spread, largest, logs[:, -1] - rest, even])
