"""Maths answers, judged by math-verify and looked at by a second, simpler grader."""

from __future__ import annotations

import logging
import re
from collections import deque
from functools import lru_cache
from typing import Any

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt
from gps_ray.tasks.interface import Verdict
from gps_ray.tasks.verifiers.extract import answer_in_tags, last_boxed
from gps_ray.tasks.verifiers.normaliser import agrees, stated_answer
from gps_ray.tasks.verifiers.powers import is_explosive
from gps_ray.tasks.verifiers.text import verdict

__all__ = ["Math"]

_KEPT_DISAGREEMENTS = 100
# A response without \boxed{} states its answer at its end.
_TAIL_CHARACTERS = 1000
_MAX_ANSWER_CHARACTERS = 1000
# Decimals to which numbers are compared, as math-verify itself does it.
_DECIMALS = 6
_LEADING_ZEROS = re.compile(r"(?<!\d)0*\.(0+)(?=[1-9])")


class Math:
    """Answers in LaTeX or plain text: ``\\boxed{\\frac{1}{2}}`` is .5.

    The verdict is math-verify's. Where the second grader (``verifiers.normaliser``) is of another opinion that is
    counted in ``num_disagreements``, and the newest are kept in ``disagreements`` as (answer, end of the response,
    math-verify's verdict). math-verify's own time-outs are off, as they need the main thread: the process that runs
    this must be killable.
    """

    name = "math"

    def __init__(self) -> None:
        self.num_disagreements = 0
        self.disagreements: deque[tuple[str, str, bool]] = deque(maxlen=_KEPT_DISAGREEMENTS)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In the process that verifies: the libraries are loaded before the first verdict's deadline runs.
        self.__dict__.update(state)
        _same("1", "\\boxed{1}")

    def check_prompt(self, prompt: Prompt) -> None:
        """Without the algebra system: it is not for the process that reads the data."""
        _expected(prompt)

    def take_notes(self) -> list[dict[str, Any]]:
        """The disagreements of the two graders since the last call."""
        notes = [
            {"answer": answer, "response_end": response, "math_verify": right, "second_grader": not right}
            for answer, response, right in self.disagreements
        ]
        self.disagreements.clear()
        return notes

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        answer = _expected(prompt)
        stated = _stated(response)
        if stated is None:
            return verdict(False)
        # What sympy would compute for ever is right where it is written as the answer is: a true 2^{2^{100}} counts.
        if is_explosive(stated) or is_explosive(answer):
            return verdict(agrees(answer, response))
        right = _same(answer, stated)
        if right != agrees(answer, response):
            self.num_disagreements += 1
            self.disagreements.append((answer[:200], response[-200:], right))
        return verdict(right)

    def stated_answer(self, prompt: Prompt, response: str) -> str:
        return stated_answer(response)


def _expected(prompt: Prompt) -> str:
    answer = prompt.answer.strip()
    if not answer:
        raise DataError("expected a maths answer with text, got none")
    return answer


def _stated(response: str) -> str | None:
    """The part of a response that math-verify reads: its last box or tag, else its end. None where it cannot hold an
    answer."""
    boxed = last_boxed(response)
    if boxed is None:
        boxed = answer_in_tags(response)
    stated = response[-_TAIL_CHARACTERS:] if boxed is None else _boxed(boxed)
    is_sound = bool(stated.strip()) and "\0" not in stated
    return stated if is_sound and len(stated) <= _MAX_ANSWER_CHARACTERS else None


def _boxed(answer: str) -> str:
    return answer if not answer else f"\\boxed{{{answer}}}"


def _same(answer: str, stated: str) -> bool:
    # Imported here: sympy and its parsers take a second, and only the process that verifies needs them.
    from math_verify import verify

    return bool(verify(_gold(answer), _parse(stated), float_rounding=_decimals(answer), timeout_seconds=None))


def _decimals(answer: str) -> int:
    """As many significant digits of a number so small that the decimals would hold next to nothing of it."""
    zeros = max((len(found) for found in _LEADING_ZEROS.findall(answer)), default=0)
    return zeros + _DECIMALS if zeros >= _DECIMALS - 1 else _DECIMALS


@lru_cache(maxsize=4096)
def _gold(answer: str) -> Any:
    return _parse(answer if last_boxed(answer) is not None else _boxed(answer))


def _parse(text: str) -> Any:
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of the time-outs that are off on purpose
    return parse(text.replace("°", r"^\circ"), parsing_timeout=None)  # it knows the degree in LaTeX only
