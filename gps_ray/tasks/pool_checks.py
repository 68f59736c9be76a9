"""What is wrong with a set of prompts as a whole: contradictions within it, and questions that two sets share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt
from gps_ray.tasks.prompt_files import SourceRow

__all__ = ["check_disjoint", "contradictions", "normalised"]

_NUM_EXAMPLES = 3
# Quotes around words; those within stay: f'(2) is not f(2).
_QUOTES = re.compile(r"""(?<!\S)["'`]+|["'`]+(?!\S)""")
_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
# Not between digits, and no factorial: 1.5 is not 15, and n! is not n. Every branch begins with its sign, so that the
# search skips what is none.
_PUNCTUATION = re.compile(r"[.,:](?!\d)|[;?]|!(?<=[^\W\d]{2}!)")


def normalised(text: str) -> str:
    """The text without case, quotes, the punctuation of sentences and repeated white space. Signs that calculate stay:
    "1 + 2" and "1 - 2" are two questions."""
    text = unicodedata.normalize("NFC", text).casefold().translate(_STRAIGHT)
    return " ".join(_QUOTES.sub(" ", _PUNCTUATION.sub(" ", text)).split())


def contradictions(prompts: Sequence[Prompt], config_key: str) -> list[str]:
    """A line where one text has several answers, with their number and the first of them; else none."""
    answers: dict[object, list[str]] = {}
    for prompt in prompts:
        answers.setdefault((prompt.text, prompt.messages), []).append(prompt.answer)
    torn = [(key[0], found) for key, found in answers.items() if len(set(found)) > 1]  # type: ignore[index]
    if not torn:
        return []
    examples = "; ".join(
        f"{_short(text)} has the answers {', '.join(_short(answer) for answer in found[:3])}"
        for text, found in torn[:_NUM_EXAMPLES]
    )
    return [f"{config_key}: {len(torn)} prompts have contradictory answers, all are kept: {examples}"]


def check_disjoint(pool: Iterable[SourceRow], other: Sequence[SourceRow], pool_key: str, config_key: str) -> None:
    """Raise DataError where a question of ``other`` is in the pool after ``normalised``: with another answer, under
    another instruction or in another spelling it would be none the fresher to a policy that was trained on it."""
    questions = {normalised(row.question) for row in pool}
    shared = [row.prompt.text for row in other if normalised(row.question) in questions]
    if shared:
        raise DataError(
            f"{config_key}: {len(shared)} of {len(other)} prompts are also in {pool_key}, apart from case, white space "
            f"and punctuation (the first: {_short(shared[0])}); remove them from one of the two"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")
