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


def text_statistics(texts: Sequence[str]) -> FloatArray:
    """[N, len(NAMES)] float64, counts and magnitudes as log(1 + x). An empty text has zeros only."""
    if not texts:
        return np.zeros((0, len(NAMES)))
    return np.array([_of_form(text) + _of_numbers(text) for text in texts], dtype=np.float64)


def _of_form(text: str) -> list[float]:
    tokens = _TOKEN.findall(text)
    words = [token for token in tokens if token.isalpha()]
    commands = [token for token in tokens if token.startswith("\\") and len(token) > 1]
    num_numbers = sum(token[0].isdigit() for token in tokens)
    num_words, num_characters = max(len(words), 1), max(len(text), 1)
    # Nearly all characters are ASCII, and those are counted without a loop in Python: a pool has 1e8 of them.
    others = "" if text.isascii() else _ASCII.sub("", text)
    lengths = (len(text), len(words), len(tokens), len(commands), len(set(commands)), num_numbers)
    return [
        *np.log1p(lengths),
        np.log1p(sum(map(len, words)) / num_words),
        len(set(words)) / num_words,
        *np.log1p([text.count(character) for character in _NOTATION]),
        (_num_in(_UPPER_CASE, text) + sum(map(str.isupper, others))) / num_characters,
        (_num_in(_DIGITS, text) + sum(map(str.isdigit, others))) / num_characters,
        len(others) / num_characters,
    ]


def _num_in(deleted: dict[int, int | None], text: str) -> int:
    return len(text) - len(text.translate(deleted))


def _of_numbers(text: str) -> list[float]:
    """Magnitudes of at most 32 numbers, in logs (a number longer than a float is cut off at the largest float)."""
    values = np.array([float(number) for number in _NUMBER.findall(text)[:_MAX_NUMBERS]] or [0.0])
    values = np.minimum(values, np.finfo(np.float64).max)
    logs = np.log1p(values)
    largest = np.zeros(_NUM_LARGEST)
    ordered = np.sort(logs)[::-1][:_NUM_LARGEST]
    largest[: len(ordered)] = ordered
    with np.errstate(over="ignore"):
        rest = np.log1p(min(values[:-1].sum(), np.finfo(np.float64).max))
    even = np.mean(np.mod(values, 2.0) == 0.0) if values.any() else 0.0
    return [logs.min(), logs.mean(), logs.std(), logs[0], logs[-1], *largest, logs[-1] - rest, even]
