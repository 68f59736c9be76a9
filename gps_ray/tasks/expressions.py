"""Arithmetic expressions as trees: written with as few brackets as possible, parsed without trust.

``parse`` reads what a policy wrote. It knows integers, ``+ - * /`` and round brackets, bounds the length before it
looks at anything else, and builds a tree; nothing is ever evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import TypeAlias

__all__ = ["ExpressionError", "Tree", "evaluate", "leaves", "operators", "parse", "render"]

# A leaf, or (left, operator, right). A string leaf is an unknown.
Tree: TypeAlias = "int | str | tuple[Tree, str, Tree]"

MAX_CHARACTERS = 256
MAX_TOKENS = 64  # also bounds the depth of the recursion

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
# ASCII only: \d and \s would take digits and spaces of every script. No number has more than nine digits.
_TOKEN = re.compile(r"[ \t\r\n]*(0|[1-9][0-9]{0,8}|[-+*/()])")


class ExpressionError(ValueError):
    """Text that is not an expression."""


def render(tree: Tree) -> str:
    """The tree as words joined by single spaces, with brackets only where the value needs them: "( 3 + 7 ) * 2"."""
    return _render(tree)[0]


def _render(tree: Tree) -> tuple[str, int]:
    if not isinstance(tree, tuple):
        return str(tree), 3
    left, operator, right = tree
    own = _PRECEDENCE[operator]
    left_text, left_precedence = _render(left)
    right_text, right_precedence = _render(right)
    if left_precedence < own:
        left_text = f"( {left_text} )"
    # a - (b + c) and a / (b * c) need their brackets; a + (b - c) and a * (b / c) do not.
    if right_precedence < own or (right_precedence == own and operator in "-/"):
        right_text = f"( {right_text} )"
    return f"{left_text} {operator} {right_text}", own


def parse(text: str) -> Tree:
    """The tree of an expression, spaces or not. There is no sign: "-3 + 10" is not an expression, "10 - 3" is.

    Raises ExpressionError for anything else, for more than 256 characters and for more than 64 tokens.
    """
    tokens = _tokens(text)
    tree, end = _parse_expression(tokens, 0, lowest=1)
    if end != len(tokens):
        raise ExpressionError(f"unexpected {tokens[end]!r}")
    return tree


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError("too long")
    text = text.rstrip(" \t\r\n")
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected {text[position : position + 10]!r}")
        tokens.append(match[1])
        position = match.end()
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise ExpressionError("empty" if not tokens else "too many tokens")
    return tokens


def _parse_expression(tokens: list[str], at: int, lowest: int) -> tuple[Tree, int]:
    """Precedence climbing: operators that bind at least as tightly as ``lowest``, grouped from the left."""
    tree, at = _parse_operand(tokens, at)
    while at < len(tokens) and _PRECEDENCE.get(tokens[at], 0) >= lowest:
        operator = tokens[at]
        right, at = _parse_expression(tokens, at + 1, _PRECEDENCE[operator] + 1)
        tree = (tree, operator, right)
    return tree, at


def _parse_operand(tokens: list[str], at: int) -> tuple[Tree, int]:
    token = tokens[at] if at < len(tokens) else ""
    if token == "(":
        tree, at = _parse_expression(tokens, at + 1, lowest=1)
        if at >= len(tokens) or tokens[at] != ")":
            raise ExpressionError("a bracket is not closed")
        return tree, at + 1
    if not token.isdigit():
        raise ExpressionError(f"expected a number, got {token!r}")
    return int(token), at + 1


def leaves(tree: Tree) -> Iterator[int | str]:
    """The leaves, left to right."""
    if isinstance(tree, tuple):
        yield from leaves(tree[0])
        yield from leaves(tree[2])
    else:
        yield tree


def operators(tree: Tree) -> frozenset[str]:
    """The operators that the tree uses."""
    if not isinstance(tree, tuple):
        return frozenset()
    return operators(tree[0]) | {tree[1]} | operators(tree[2])


def evaluate(tree: Tree) -> Fraction:
    """The exact value. Raises ZeroDivisionError, and ExpressionError for an unknown."""
    if isinstance(tree, str):
        raise ExpressionError(f"no value for {tree!r}")
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = evaluate(tree[0]), evaluate(tree[2])
    match tree[1]:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left / right
