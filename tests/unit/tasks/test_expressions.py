import ast
from fractions import Fraction

import numpy as np
import pytest

from gps_ray.base.keyed_random import generator
from gps_ray.tasks.expressions import ExpressionError, Tree, evaluate, leaves, operators, parse, render


def _random_tree(rng: np.random.Generator, num_leaves: int) -> Tree:
    if num_leaves == 1:
        return int(rng.integers(0, 101))
    split = int(rng.integers(1, num_leaves))
    return _random_tree(rng, split), str(rng.choice(list("+-*/"))), _random_tree(rng, num_leaves - split)


def _value(tree: Tree) -> Fraction | None:
    try:
        return evaluate(tree)
    except ZeroDivisionError:
        return None


def _python_value(node: ast.AST) -> Fraction:
    """The value that Python's own grammar gives the text: an independent reading of precedence and brackets."""
    match node:
        case ast.Expression(body=body):
            return _python_value(body)
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _python_value(left), _python_value(right)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case _:
                    return a / b
        case _:
            raise AssertionError(ast.dump(node))


def test_rendering_and_parsing_keep_the_value() -> None:
    rng = generator(1, "test/trees")
    num_defined = 0
    for _ in range(1500):
        tree = _random_tree(rng, int(rng.integers(1, 8)))
        text = render(tree)
        back = parse(text)
        assert list(leaves(back)) == list(leaves(tree))
        assert operators(back) == operators(tree)
        assert parse(text.replace(" ", "")) == back
        assert render(back) == text
        value = _value(tree)
        assert _value(back) == value
        if value is not None:
            num_defined += 1
            assert _python_value(ast.parse(text, mode="eval")) == value
    assert num_defined > 1000


def test_no_bracket_can_be_left_out() -> None:
    """Dropping any one pair changes what the text means (checked on trees whose numbers make every difference show)."""
    rng = generator(2, "test/brackets")
    for _ in range(300):
        tree = _random_tree(rng, int(rng.integers(3, 6)))
        words = render(tree).split()
        for start, word in enumerate(words):
            if word != "(":
                continue
            depth, end = 0, start
            for end in range(start, len(words)):
                depth += {"(": 1, ")": -1}.get(words[end], 0)
                if depth == 0:
                    break
            without = [w for i, w in enumerate(words) if i not in (start, end)]
            assert parse(" ".join(without)) != parse(" ".join(words))


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ((1, "+", (2, "-", 3)), "1 + 2 - 3"),
        ((1, "-", (2, "-", 3)), "1 - ( 2 - 3 )"),
        (((1, "+", 2), "*", (3, "-", 4)), "( 1 + 2 ) * ( 3 - 4 )"),
        ((8, "/", (4, "/", 2)), "8 / ( 4 / 2 )"),
        ((8, "*", (4, "/", 2)), "8 * 4 / 2"),
        ((3, "*", ("x", "-", 4)), "3 * ( x - 4 )"),
    ],
)
def test_brackets_only_where_needed(tree: Tree, text: str) -> None:
    assert render(tree) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "3 +",
        "+ 3",
        "-3",
        "3 3",
        "3 + + 4",
        "3 ** 4",
        "3 // 4",
        "3 ^ 4",
        "(3",
        "3)",
        ")3(",
        "03",
        "3.5",
        "1e3",
        "1_000",
        "x",
        "1234567890",
        "³",
        "٣",
        "３",
        "3\u00a0+ 4",
        "3 \u2212 1",
        "3\x00",
        "__import__('os')",
        "(" * 200,
        "(" * 40 + "3" + ")" * 40,
        "1 + " * 40 + "1",
        "1" * 10**7,
    ],
)
def test_what_is_not_an_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


def test_an_unknown_has_no_value() -> None:
    with pytest.raises(ExpressionError, match="x"):
        evaluate(("x", "+", 1))
