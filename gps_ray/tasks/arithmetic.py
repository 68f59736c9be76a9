r"""Integer arithmetic: chains of operations ("compute ( 3 + 9 ) * 4 - 7") and equations with one unknown
("solve 3 * x + 7 = 22"), answered by the integer in the last \boxed{}.

Levels: chain-1 to chain-4 with so many operations, linear-1 to linear-3 (unknown on one side, with one or two
operations, and on both sides). Two hard levels, chain-6 and linear-4 (brackets, larger operands), never occur in the
warm start, the others where ``data.arithmetic.warm_start_levels`` names them. All numbers of a solution lie between
-100 and 100, so that each is one token after its sign.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import ArithmeticConfig, DataConfig
from gps_ray.tasks.dataset import read_data_files
from gps_ray.tasks.expressions import Tree, render
from gps_ray.tasks.interface import DataSets, Verdict
from gps_ray.tasks.splits import draw_examples, draw_sets

__all__ = ["HARD_LEVELS", "Arithmetic"]

HARD_LEVELS = ("chain-6", "linear-4")
# Prompts by level in a pool of 4,000.
POOL_SHARES = {
    "chain-1": 120,
    "chain-2": 600,
    "chain-3": 700,
    "chain-4": 700,
    "chain-6": 500,
    "linear-1": 200,
    "linear-2": 400,
    "linear-3": 400,
    "linear-4": 380,
}

LARGEST_VALUE = 100
LARGEST_FACTOR = 5
DRAWS_PER_BATCH = 1024
MAX_OPERANDS = 7

BOX = "\\boxed{"
# ASCII digits only.
_ANSWER = re.compile(r"[ \t\r\n]*(-?)[ \t\r\n]*(0|[1-9][0-9]{0,17})[ \t\r\n]*")
# Longer than any answer.
_MAX_ANSWER_CHARACTERS = 512

Key = tuple[str, tuple[int, ...], int]
_Side = tuple[Tree, int, int]


class Arithmetic:
    """The task, its verifier and its generator."""

    name = "arithmetic"
    bounds_its_own_work = True  # a parser in linear time, no evaluation: no process between (rollout.verifier_pool)

    def vocabulary(self) -> tuple[str, ...]:
        signs = ("+", "-", "*", "(", ")", "=", "x", BOX, "}")
        return (*map(str, range(LARGEST_VALUE + 1)), *signs, "compute", "solve", "answer")

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        r"""1 and RIGHT where the last ``\boxed{...}`` holds the answer as an integer in ASCII digits, else 0 and
        WRONG. What stands around it is not looked at, whatever its length."""
        expected = _integer(prompt.answer)
        if expected is None:
            raise DataError(f"expected an arithmetic answer that is an integer, got {prompt.answer[:100]!r}")
        _, opened, after = response.rpartition(BOX)
        content, closed, _ = after.partition("}")
        is_right = bool(opened and closed) and _integer(content) == expected
        return (1.0, RolloutStatus.RIGHT) if is_right else (0.0, RolloutStatus.WRONG)

    def generate(self, config: DataConfig) -> DataSets:
        section = config.arithmetic
        sizes = {
            "pool": section.num_pool_prompts,
            "evaluation": section.num_evaluation_prompts,
            "heldout_probe": section.num_heldout_probe_prompts,
        }
        draw = partial(_draw, section, section.seed, "sets")
        return draw_sets(self.name, "data.arithmetic", section.seed, POOL_SHARES, sizes, draw)

    def warm_start_examples(self, config: DataConfig, num_examples: int, seed: int) -> list[tuple[str, str]]:
        sets = read_data_files(config, self) if config.has_sources else self.generate(config)
        excluded = {
            _key(prompt.text, int(prompt.answer))
            for split in (sets.pool, sets.evaluation, sets.heldout_probe)
            for prompt in split
        }
        section = config.arithmetic
        shares = {str(level): POOL_SHARES[level] for level in section.warm_start_levels}
        draw = partial(_draw, section, seed, "warm_start")
        return draw_examples(self.name, "data.arithmetic", seed, shares, num_examples, excluded, draw)


def _integer(text: str) -> int | None:
    # The spaces in front can be split in two ways: the pattern is quadratic in their number.
    match = _ANSWER.fullmatch(text) if len(text) <= _MAX_ANSWER_CHARACTERS else None
    return None if match is None else int(match[1] + match[2])


def _key(text: str, value: int) -> Key:
    """Two chains, or two equations, with the same numbers and the same answer count as one, whatever their operators
    and order. (Levels differ in how many numbers they have, so no two levels share a key.)"""
    kind, *words = text.split()
    return kind, tuple(sorted(int(word) for word in words if word.isdecimal())), value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """``steps`` are the intermediate results that lead to ``value``."""

    text: str
    steps: tuple[int, ...]
    value: int

    @property
    def key(self) -> Key:
        return _key(self.text, self.value)

    @property
    def variant(self) -> Hashable:
        return self.text

    @property
    def answer(self) -> str:
        return str(self.value)

    @property
    def solution(self) -> str:
        return " ".join([*map(_signed, self.steps), BOX, _signed(self.value), "}"])


def _signed(value: int) -> str:
    return str(value) if value >= 0 else f"- {-value}"


def _draw(config: ArithmeticConfig, seed: int, purpose: str, level: str, batch: int) -> list[_Problem]:
    """Problems of one level; the same arguments give the same problems."""
    rng = generator(seed, f"arithmetic/{purpose}/{level}", step=batch)
    largest = config.max_hard_number if level in HARD_LEVELS else config.max_number
    kind, size = level.split("-")
    operands = rng.integers(1, largest, endpoint=True, size=(DRAWS_PER_BATCH, MAX_OPERANDS)).tolist()
    factors = rng.integers(2, LARGEST_FACTOR, endpoint=True, size=(DRAWS_PER_BATCH, MAX_OPERANDS)).tolist()
    operators = rng.choice(["+", "-", "*"], size=(DRAWS_PER_BATCH, MAX_OPERANDS)).tolist()
    coins = (rng.random((DRAWS_PER_BATCH, MAX_OPERANDS)) < 0.5).tolist()
    make = _chain if kind == "chain" else _equation
    problems = (make(int(size), *row) for row in zip(operands, factors, operators, coins, strict=True))
    return [problem for problem in problems if problem is not None]


def _chain(
    num_operations: int, operands: list[int], factors: list[int], operators: list[str], coins: list[bool]
) -> _Problem | None:
    """Operations applied one after the other to a running value; None where it leaves [-100, 100]. The last one
    has it on its right in a quarter of the chains: 20 - ( 3 + 4 ) * 2."""
    value = operands[0]
    tree: Tree = value
    values = []
    for place in range(num_operations):
        operator = operators[place]
        number = factors[place] if operator == "*" else operands[place + 1]
        is_turned = place == num_operations - 1 and coins[0] and coins[1]
        tree = (number, operator, tree) if is_turned else (tree, operator, number)
        value = _apply(operator, *((number, value) if is_turned else (value, number)))
        values.append(value)
    if max(map(abs, values)) > LARGEST_VALUE:
        return None
    return _Problem(text=f"compute {render(tree)} answer", steps=tuple(values[:-1]), value=value)


def _apply(operator: str, left: int, right: int) -> int:
    if operator == "*":
        return left * right
    return left + right if operator == "+" else left - right


def _equation(
    form: int, operands: list[int], factors: list[int], operators: list[str], coins: list[bool]
) -> _Problem | None:
    """A linear equation in x with an integer solution; None where it has no single one, or a number leaves
    [-100, 100].

    Forms, with signs at random: 1: x + b = d, or a * x = d;  2: a * x + b = d;  3: a * x + b = c * x + d;
    4: a * ( x + b ) = c * ( x + e ) + d. The steps are d - b in form 2, and in forms 3 and 4 both sides of
    p * x = q after collecting: p = a - c, then q.
    """
    x, b, e = (operand if coin else -operand for operand, coin in zip(operands[:3], coins[:3], strict=True))
    a, c = factors[:2]
    a_x: Tree = (a, "*", "x")
    # Each side as (tree, coefficient of x, constant); d is still missing on the right.
    left: _Side
    right: _Side | None
    match form:
        case 1:
            left, right = ((a_x, a, 0) if coins[3] else (_plus("x", b), 1, b)), None
        case 2:
            left, right = (_plus(a_x, b), a, b), None
        case 3:
            left, right = (_plus(a_x, b), a, b), ((c, "*", "x"), c, 0)
        case _:
            left, right = ((a, "*", _plus("x", b)), a, a * b), ((c, "*", _plus("x", e)), c, c * e)
    coefficient, constant = (0, 0) if right is None else right[1:]
    d = left[1] * x + left[2] - coefficient * x - constant
    p, q = left[1] - coefficient, constant + d - left[2]
    if p == 0 or abs(d) > LARGEST_VALUE or abs(q) > LARGEST_VALUE or (right is not None and d == 0):
        return None
    right_text = _signed(d) if right is None else render(_plus(right[0], d))
    steps = {1: (), 2: (q,)}.get(form, (p, q))
    return _Problem(text=f"solve {render(left[0])} = {right_text} answer", steps=steps, value=x)


def _plus(tree: Tree, number: int) -> Tree:
    return (tree, "+", number) if number >= 0 else (tree, "-", -number)
