"""Would computing a formula take for ever? Towers of powers, long exponents and large factorials do."""

from __future__ import annotations

import re

__all__ = ["is_explosive"]

_LONGEST_EXPONENT = 4  # digits; of a power of a power, those of both exponents together
_SPACING = re.compile(r"\s|\\left|\\right")
_OPERAND = re.compile(r"[-+]?(?:\\?[A-Za-z]+|[\d.]+)")
# Of a long number, of a factorial, of a power.
_LARGE_FACTORIAL = re.compile(r"\d{5,}!|![)}\]]*!|\^[^()]{0,20}\)!")
_EXPONENT = re.compile(r"\^[-+({\[]*(\d+)")
# (x + 1)^100 is multiplied out, 2^2024 is a short number, that power of a long one is not.
_LONG_EXPONENT = re.compile(r"(?:[)}\]]\^[-+({\[]*\d{3,}|[\d.]{5,}\^[-+({\[]*\d{4,})")
_OPENING, _CLOSING = "({[", ")}]"


def is_explosive(formula: str) -> bool:
    """Does the formula (LaTeX or Python) hold a number in the exponent that is itself a power or a factorial, a power
    of a power with long exponents, or another number that nobody writes out? Powers side by side, x^2 + y^2, are no
    tower. One pass, and one more per bracket that is raised to a power."""
    text = _SPACING.sub("", formula).replace("**", "^")
    if _LARGE_FACTORIAL.search(text) or _LONG_EXPONENT.search(text):
        return True
    if any(len(found[1]) > _LONGEST_EXPONENT for found in _EXPONENT.finditer(text)):
        return True
    opened: list[tuple[int, bool]] = []  # brackets: where each opens, and whether it stands in an exponent
    begin, is_exponent, exponent_end = 0, False, -1
    for place, character in enumerate(text):
        in_exponent = place < exponent_end or bool(opened and opened[-1][1])
        if character in _OPENING:
            is_exponent = in_exponent or text[place - 1 : place] == "^" or text[place - 2 : place] in ("^-", "^+")
            opened.append((place, is_exponent))
        elif character in _CLOSING and opened:
            begin, is_exponent = opened.pop()
        elif character == "!" and in_exponent and text[place - 1].isdigit():
            return True
        elif character == "^":
            after_bracket = text[place - 1 : place] in tuple(_CLOSING)
            base = text[begin:place] if after_bracket else text[place - 1 : place]
            is_number = bool(base) and not any(sign.isalpha() for sign in base)
            # a^b^c is a^(b^c), with brackets around b or none.
            is_tower = in_exponent or place == exponent_end or (after_bracket and is_exponent)
            if is_number and (is_tower or (after_bracket and _is_long(base, text[place:]))):
                return True
            operand = _OPERAND.match(text, place + 1)
            exponent_end = operand.end() if operand else -1
    return False


def _is_long(base: str, power: str) -> bool:
    outer = _EXPONENT.match(power)
    inner = [len(found[1]) for found in _EXPONENT.finditer(base)]
    return bool(inner) and sum(inner) + (len(outer[1]) if outer else 1) > _LONGEST_EXPONENT
