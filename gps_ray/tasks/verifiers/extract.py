"""Where the answer stands in a response. Responses are hostile text: all of this is linear in its length."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

__all__ = ["ANSWER_FORMATS", "answer_in_tags", "last_boxed", "last_integer", "last_number", "values"]

# Without nested quantifiers, so that no text makes it backtrack for long. Lengths are bounded for the same reason.
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3}){1,20}(?!\d)(?:\.\d{1,60})?|\d{1,60}(?:\.\d{1,60})?|\.\d{1,60})")
_BOXED = re.compile(r"\\f?boxed\s{0,3}\{")
_INTEGER = re.compile(r"(?<![\d.])[-−]?(?:\d{1,3}(?:,\d{3}){1,20}(?![\d,])|\d{1,60})(?!\d)(?!\.\d)", re.ASCII)
# As numbers are written down: 7/2 and 1e3 are one number each.
_VALUE = re.compile(rf"({_NUMBER.pattern})(?:\s?/\s?(\d{{1,60}})(?![\d.]*/)|[eE]([-+]?\d{{1,3}})(?!\d))?")
_TAIL_CHARACTERS = 4000


def last_boxed(response: str) -> str | None:
    """What stands in the last ``\\boxed{...}``, nested braces and all; None where there is none or it never closes."""
    opened = None
    for opened in _BOXED.finditer(response):  # noqa: B007  the last one is wanted
        pass
    if opened is None:
        return None
    depth = 1
    for place in range(opened.end(), len(response)):
        character = response[place]
        is_escaped = response[place - 1] == "\\"
        depth += (character == "{" and not is_escaped) - (character == "}" and not is_escaped)
        if depth == 0:
            return response[opened.end() : place].strip()
    return None


def answer_in_tags(response: str) -> str | None:
    """What stands between the last ``<answer>`` and its ``</answer>``; None where either is missing."""
    _, opened, after = response.rpartition("<answer>")
    answer, closed, _ = after.partition("</answer>")
    return answer.strip() if opened and closed else None


def last_number(text: str) -> str | None:
    """The last number in the last 4,000 characters, without thousands separators; None where there is none."""
    numbers = _NUMBER.findall(text[-_TAIL_CHARACTERS:])
    return numbers[-1].replace(",", "").replace("−", "-") if numbers else None


def values(text: str) -> list[Fraction]:
    """The numbers in the last 4,000 characters; a fraction (7/2) and a power of ten (1e3) are one each. A division by
    zero is none."""
    found = []
    for number, divisor, exponent in _VALUE.findall(text[-_TAIL_CHARACTERS:]):
        value = Fraction(number.replace(",", "").replace("−", "-")) * Fraction(10) ** int(exponent or 0)
        if not divisor:
            found.append(value)
        elif int(divisor):
            found.append(value / int(divisor))
    return found


def last_integer(text: str) -> str | None:
    """The last integer in the last 4,000 characters, without thousands separators; None where there is none. A number
    with decimals is none, and the minus of "5-3" or "x-3" is no sign of the 3."""
    found = None
    tail = text[-_TAIL_CHARACTERS:]
    for found in _INTEGER.finditer(tail):  # noqa: B007  the last one is wanted
        pass
    if found is None:
        return None
    number = found[0].replace(",", "").replace("−", "-")
    before = tail[: found.start()][-1:]
    is_difference = number.startswith("-") and (before.isalnum() or before == ")")
    return number.removeprefix("-") if is_difference else number


def _whole(response: str) -> str:
    return response.strip()


# What of a response is its answer, by name; None where the response has none in that form.
ANSWER_FORMATS: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {"whole": _whole, "last_integer": last_integer, "boxed": last_boxed, "answer_tags": answer_in_tags}
)
