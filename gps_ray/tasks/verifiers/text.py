"""Verifiers that compare text or one number: gsm8k, multiple_choice, exact."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from gps_ray.base.errors import DataError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.interface import Verdict
from gps_ray.tasks.verifiers.extract import answer_in_tags, last_boxed, values

__all__ = ["Exact", "Gsm8k", "MultipleChoice", "verdict"]

# An answer's statement stands near the end; what a response says before it may be of any length.
_TAIL_CHARACTERS = 4000
# A small letter is a choice where it ends something: "is a)", but not "is a guess". So is the ninth: "is I think B".
_CHOICE = r"[\(\[*_`\s\"']{0,8}([A-HJ](?![A-Za-z0-9])|[Ia-j](?=[)\]*_`\"'.,;:]|\s{0,8}$))"
_STATED = re.compile(
    r"(?i:(?:answer|choice|option)(?:\s{1,3}(?:is|would be|should be)|\s{0,3}[:=])\s{0,3}(?:option|choice)?)" + _CHOICE,
    re.MULTILINE,
)
_BRACKETED = re.compile(r"[\(\[]\s{0,3}([A-J])\s{0,3}[\)\]]")
_ALONE = re.compile(r"^\s{0,8}[\(\[*_`\"']{0,4}([A-Ja-j])[\)\]*_`\"'.:]{0,4}\s{0,8}$")
_LEADING = re.compile(r"^\s{0,8}[\(\[*_`]{0,4}([A-J])[\)\]*_`]{0,4}[.:)]\s")


def verdict(right: bool) -> Verdict:
    """1 and RIGHT, or 0 and WRONG."""
    return (1.0, RolloutStatus.RIGHT) if right else (0.0, RolloutStatus.WRONG)


class Gsm8k:
    """Answers that are one number, "#### 42": the last number after the last ``####``; without it, the number in the
    last ``\\boxed{}`` or the last number at all. Commas and currency signs count for nothing; 7/2 is one number."""

    name = "gsm8k"

    def check_prompt(self, prompt: Prompt) -> None:
        self._expected(prompt)

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        return verdict(_stated_number(response) == self._expected(prompt))

    def _expected(self, prompt: Prompt) -> Fraction:
        found = values(_after_hashes(prompt.answer))
        # Of several nobody knows which one is meant.
        if len(found) != 1:
            raise DataError(f"expected a gsm8k answer that holds one number, got {prompt.answer[:100]!r}")
        return found[0]

    def stated_answer(self, prompt: Prompt, response: str) -> str:
        number = _stated_number(response)
        return "" if number is None else str(number)


def _stated_number(response: str) -> Fraction | None:
    found = values(_after_hashes(response) if "####" in response else last_boxed(response) or response)
    return found[-1] if found else None


def _after_hashes(text: str) -> str:
    # The statement ends with its line: what a model rambles on about afterwards is not its answer.
    _, found, after = text.rpartition("####")
    return after.strip().split("\n")[0] if found else text


class MultipleChoice:
    """Answers that are a letter from A to J: ``\\boxed{B}``, ``<answer>B</answer>``, "answer is (B)", "B." or "(B)".

    The last statement of an answer counts; a response that only brackets several letters has no answer.
    """

    name = "multiple_choice"

    def check_prompt(self, prompt: Prompt) -> None:
        self._expected(prompt)

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        expected = self._expected(prompt)
        return verdict(_choice(response) == expected)

    def _expected(self, prompt: Prompt) -> str:
        expected = _ALONE.match(_without_text(prompt.answer))
        if expected is None:
            raise DataError(f"expected a multiple_choice answer from A to J, got {prompt.answer[:100]!r}")
        return expected[1].upper()

    def stated_answer(self, prompt: Prompt, response: str) -> str:
        return _choice(response) or ""


def _without_text(answer: str) -> str:
    return re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s{0,3}\{([^{}]{0,20})\}", r"\1", answer[:200])


def _choice(response: str) -> str | None:
    stated = last_boxed(response) or answer_in_tags(response)
    if stated is not None:
        found = _ALONE.match(_without_text(stated)) or _LEADING.match(_without_text(stated) + " ")
        return found[1].upper() if found else None
    tail = response[-_TAIL_CHARACTERS:]
    statements = _STATED.findall(tail)
    if statements:
        return str(statements[-1]).upper()
    found = _ALONE.match(response) or _LEADING.match(response)
    if found:
        return found[1].upper()
    bracketed = set(_BRACKETED.findall(tail))
    return bracketed.pop() if len(bracketed) == 1 else None


class Exact:
    """Equality after normalising case, white space, width and a full stop at the end. In a response with ``<answer>``
    or ``\\boxed{}`` the answer is what stands there, else it is the whole response."""

    name = "exact"

    def check_prompt(self, prompt: Prompt) -> None:
        self._expected(prompt)

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        return verdict(self.stated_answer(prompt, response) == self._expected(prompt))

    def stated_answer(self, prompt: Prompt, response: str) -> str:
        stated = answer_in_tags(response)
        if stated is None:
            stated = last_boxed(response)
        return _plain(response if stated is None else stated)

    def _expected(self, prompt: Prompt) -> str:
        expected = _plain(prompt.answer)
        if not expected:
            raise DataError("expected an answer with text, got none")
        return expected


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".").rstrip()
