"""Is an answer a plain value or formula? For scorers that evaluate what they are given."""

from __future__ import annotations

import ast
import re

from gps_ray.tasks.verifiers.powers import is_explosive

__all__ = ["is_harmless"]

_MAX_CHARACTERS = 1000
# Numbers, one-word names, operators and brackets: no quotes, no underscores, no attribute, no index, no lambda.
_FORMULA = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+|[A-Za-z]+|\*\*|[-+*/^() \t])*")
# A board or a word: it can name things, and call or reach into none.
_BOARD = re.compile(r"[A-Za-z0-9_ \t\r\n]*")
_WORD = re.compile(r"[A-Za-z]{2,}")
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt")
)


def is_harmless(answer: str) -> bool:
    """A Python literal (a list of numbers or texts), words and numbers with white space between, or a formula of
    numbers, names of one letter, operators and the usual functions: evaluating it can do nothing but compute."""
    if len(answer) > _MAX_CHARACTERS:
        return False
    try:
        ast.literal_eval(answer.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    else:
        return True
    if _BOARD.fullmatch(answer):
        return True
    is_formula = _FORMULA.fullmatch(answer) is not None and not is_explosive(answer)
    return is_formula and {*_WORD.findall(answer)} <= _FUNCTIONS
