"""The second opinion on a maths answer: text normalised and compared, without a computer algebra system."""

from __future__ import annotations

import re
from fractions import Fraction

from gps_ray.tasks.verifiers.extract import answer_in_tags, last_boxed, last_number

__all__ = ["agrees", "normalise", "stated_answer"]

# Longer than any answer of a data set; what is longer is no answer to this grader.
_MAX_CHARACTERS = 400
_LONGEST_BARE_ANSWER = 20
_UNITS = re.compile(
    r"(?<=[\d)}])(?:\\?(?:cm|mm|km|kg|inches|inch|feet|foot|miles|mile|meters|meter|dollars|cents|degrees|degree|hours"
    r"|minutes|seconds|units|unit|square|cubic|mph)){1,3}(?:\^\{?[23]\}?)?$"
)
_REPLACED = (
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right|big|Big|displaystyle|limits|,|!|;|:|quad|qquad)(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|textit|operatorname)\s{0,3}\{([^{}]{0,200})\}"), r"\1"),
    (re.compile(r"\^\s{0,3}(?:\\circ|\{\\circ\})|°"), ""),
    (re.compile(r"\\?[$%]|\\ |~"), ""),
    (re.compile(r"\s"), ""),
    (re.compile(r"(?<=\d)\{?,\}?(?=\d{3}(?!\d))"), ""),
    (re.compile(r"^[a-zA-Z]\\?(?:=|\\in)"), ""),
    (re.compile(r"\\frac(\d)(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\{([^{}]{1,60})\}\{([^{}]{1,60})\}"), r"(\1)/(\2)"),
    (re.compile(r"\\sqrt(\w)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:cdot|times)"), "*"),
    (re.compile(r"\((\w{1,60})\)/\((\w{1,60})\)"), r"\1/\2"),
    (re.compile(r"\\[{}]"), lambda found: "<" if found[0] == r"\{" else ">"),
    (re.compile(r"\^\{(\w)\}|_\{(\w)\}"), lambda found: found[0][0] + (found[1] or found[2])),
)
_RATIONAL = re.compile(r"[-+]?(\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:/(\d{1,30}))?")


def agrees(answer: str, response: str) -> bool:
    """Is the response's last ``\\boxed{}`` (else its ``<answer>``, else its last number) the answer, as text or as a
    rational number?"""
    stated = _stated(response, len(answer) + 8)
    ours, theirs = normalise(answer), normalise(stated)
    if not theirs:
        return False
    if ours == theirs:
        return True
    value = _rational(ours)
    return value is not None and value == _rational(theirs)


def stated_answer(response: str) -> str:
    """What the response states, in one spelling: a rational number as a fraction in lowest terms, else normalised text;
    "" for nothing. Without a box or tag it is the last number, or a response that is short enough to be an answer."""
    stated = normalise(_stated(response, _LONGEST_BARE_ANSWER))
    value = _rational(stated)
    return stated if value is None else str(value)


def _stated(response: str, longest: int) -> str:
    """The last box, else the last tag, else a response of at most ``longest`` characters, else its last number."""
    stated = last_boxed(response)
    if stated is None:
        stated = answer_in_tags(response)
    if stated is None:
        stated = response if len(response) <= longest else last_number(response) or ""
    return stated


def normalise(text: str) -> str:
    """One spelling for the usual spellings of an answer; "" for what is too long to be one."""
    if len(text) > _MAX_CHARACTERS:
        return ""
    text = text.replace("−", "-").strip().rstrip(".")
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return _UNITS.sub("", text).lower()


def _rational(text: str) -> Fraction | None:
    text = text.replace("(", "").replace(")", "") if text.count("/") == 1 else text
    found = _RATIONAL.fullmatch(text)
    if found is None or (found[2] is not None and int(found[2]) == 0):
        return None
    value = Fraction(found[1]) / int(found[2] or 1)
    return -value if text.startswith("-") else value
