"""Countdown: reach a target with the given numbers, each used exactly once, and the operators that the prompt names.

Levels: CD-2, CD-3 and CD-4 with 2, 3 and 4 numbers from 1 to ``max_number``; CD-4-hard with 4 numbers above that,
which the warm start never shows. Every prompt is made from a solution, so every prompt has one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import BoolArray, IntArray, Prompt, RolloutStatus
from gps_ray.config import CountdownConfig, DataConfig
from gps_ray.tasks.dataset import read_data_files
from gps_ray.tasks.expressions import ExpressionError, Tree, evaluate, leaves, operators, parse, render
from gps_ray.tasks.interface import DataSets, Verdict
from gps_ray.tasks.splits import draw_examples, draw_sets

__all__ = ["HARD_LEVEL", "Countdown"]

HARD_LEVEL = "CD-4-hard"
NUM_NUMBERS = {"CD-2": 2, "CD-3": 3, "CD-4": 4, HARD_LEVEL: 4}
# Prompts by level in a pool of 4,000.
POOL_SHARES = {
    "heterogeneous": {"CD-2": 385, "CD-3": 1000, "CD-4": 800, HARD_LEVEL: 1815},
    "homogeneous": {"CD-3": 1},
}
WARM_START_SHARES = {"CD-2": 1, "CD-3": 4, "CD-4": 5}

OPERATORS = "+-*/"
OPERATOR_SETS = ("+-", "+-*", "+-*/")
DRAWS_PER_BATCH = 4096

# All ways to group 2, 3 and 4 numbers that stand in a row; leaves are places.
Shape: TypeAlias = "int | tuple[Shape, Shape]"
SHAPES: dict[int, tuple[Shape, ...]] = {
    2: ((0, 1),),
    3: (((0, 1), 2), (0, (1, 2))),
    4: ((((0, 1), 2), 3), ((0, (1, 2)), 3), ((0, 1), (2, 3)), (0, ((1, 2), 3)), (0, (1, (2, 3)))),
}

Key = tuple[tuple[int, ...], int]

# Longer than any answer. What stands around its tags (a chain of thought) may be of any length and is never looked at.
_MAX_ANSWER_CHARACTERS = 512


class Countdown:
    """The task, its verifier and its generator."""

    name = "countdown"
    bounds_its_own_work = True  # a parser in linear time, no evaluation: no process between (rollout.verifier_pool)

    def vocabulary(self) -> tuple[str, ...]:
        return (*map(str, range(101)), *OPERATORS, "(", ")", "numbers", "operators", "target", "answer")

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """1 and RIGHT for an expression over exactly the given numbers and only the named operators whose exact value
        is the target, else 0 and WRONG.

        "= 30" may follow it, where 30 is the target. In a response with <answer> the answer is what stands between the
        last one and its </answer>, and where that is missing there is none; in others it is the whole response.
        """
        right = _solves(_puzzle_of(prompt.answer), _answer_in(response))
        return (1.0, RolloutStatus.RIGHT) if right else (0.0, RolloutStatus.WRONG)

    def generate(self, config: DataConfig) -> DataSets:
        section = config.countdown
        sizes = {
            "pool": section.num_pool_prompts,
            "evaluation": section.num_evaluation_prompts,
            "heldout_probe": section.num_heldout_probe_prompts,
        }
        draw = partial(_draw, section, section.seed, "sets")
        return draw_sets(self.name, "data.countdown", section.seed, POOL_SHARES[section.pool], sizes, draw)

    def warm_start_examples(self, config: DataConfig, num_examples: int, seed: int) -> list[tuple[str, str]]:
        sets = read_data_files(config, self) if config.has_sources else self.generate(config)
        excluded = {
            _puzzle_of(prompt.answer).key
            for split in (sets.pool, sets.evaluation, sets.heldout_probe)
            for prompt in split
        }
        draw = partial(_draw, config.countdown, seed, "warm_start")
        return draw_examples(self.name, "data.countdown", seed, WARM_START_SHARES, num_examples, excluded, draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Puzzle:
    """``numbers`` stand in the order of the prompt."""

    numbers: tuple[int, ...]
    operators: str
    target: int

    @property
    def key(self) -> Key:
        return tuple(sorted(self.numbers)), self.target

    @property
    def text(self) -> str:
        words = ("numbers", *self.numbers, "operators", *self.operators, "target", self.target, "answer")
        return " ".join(map(str, words))

    @property
    def answer(self) -> str:
        return json.dumps({"numbers": self.numbers, "operators": self.operators, "target": self.target})


@dataclass(frozen=True, slots=True, kw_only=True)
class _SolvedPuzzle(_Puzzle):
    """A puzzle with the expression it was drawn from: ``places`` are the numbers in the expression's order, ``used``
    the operators between them. The tree is built where it is asked for: most puzzles drawn never are."""

    shape: Shape
    places: Sequence[int]
    used: Sequence[int]

    @property
    def variant(self) -> Hashable:
        return self.operators

    @property
    def solution(self) -> str:
        return render(_tree(self.shape, self.places, self.used))


@lru_cache(maxsize=65_536)
def _puzzle_of(answer: str) -> _Puzzle:
    """Read a ground truth, {"numbers": [3, 7, 12], "operators": "+-", "target": 16}. Without operators all four go."""
    try:
        parts = json.loads(answer)
        numbers, target, allowed = parts["numbers"], parts["target"], parts.get("operators", OPERATORS)
        is_sound = (
            isinstance(numbers, list)
            and all(type(number) is int and number >= 0 for number in (*numbers, target))
            and isinstance(allowed, str)
            and set(allowed) <= set(OPERATORS)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        is_sound = False
    if not is_sound:
        raise DataError(
            'expected a countdown answer like {"numbers": [3, 7, 12], "operators": "+-", "target": 16}, got '
            f"{answer[:100]!r}"
        )
    return _Puzzle(numbers=tuple(numbers), operators=allowed, target=target)


def _answer_in(response: str) -> str:
    _, opened, after = response.rpartition("<answer>")
    if not opened:
        return response
    answer, closed, _ = after.partition("</answer>")
    return answer if closed else ""


def _solves(puzzle: _Puzzle, answer: str) -> bool:
    if len(answer) > _MAX_ANSWER_CHARACTERS:
        return False
    expression, equals, stated = answer.partition("=")
    if equals and stated.strip(" \t\r\n") != str(puzzle.target):
        return False
    try:
        tree = parse(expression)
        # Numbers are compared before anything is computed, so no operand is larger than those of the puzzle.
        return (
            Counter(leaves(tree)) == Counter(puzzle.numbers)
            and operators(tree) <= set(puzzle.operators)
            and evaluate(tree) == puzzle.target
        )
    except (ExpressionError, ZeroDivisionError):
        return False


def _draw(config: CountdownConfig, seed: int, purpose: str, level: str, batch: int) -> list[_SolvedPuzzle]:
    """Puzzles of one level from random expressions: those whose value is a whole number from 1 to ``max_target`` and
    whose steps are whole numbers too. The same arguments give the same puzzles."""
    rng = generator(seed, f"countdown/{purpose}/{level}", step=batch)
    length = NUM_NUMBERS[level]
    low, high = (config.max_number + 1, config.max_hard_number) if level == HARD_LEVEL else (1, config.max_number)
    numbers = rng.integers(low, high, endpoint=True, size=(DRAWS_PER_BATCH, length))
    operator_sets = rng.integers(len(OPERATOR_SETS), size=DRAWS_PER_BATCH)
    num_allowed = np.array([len(allowed) for allowed in OPERATOR_SETS])[operator_sets]
    used = (rng.random((DRAWS_PER_BATCH, length - 1)) * num_allowed[:, None]).astype(np.int64)
    shapes = rng.integers(len(SHAPES[length]), size=DRAWS_PER_BATCH)
    shown = rng.permuted(numbers, axis=1)

    puzzles = []
    for index, shape in enumerate(SHAPES[length]):
        rows = np.flatnonzero(shapes == index)
        values, is_whole = _values(shape, numbers[rows], used[rows])
        kept = is_whole & (values >= 1) & (values <= config.max_target)
        rows = rows[kept]
        columns = (shown[rows], operator_sets[rows], values[kept], numbers[rows], used[rows])
        puzzles += [
            _SolvedPuzzle(
                numbers=tuple(n), operators=OPERATOR_SETS[s], target=target, shape=shape, places=places, used=between
            )
            for n, s, target, places, between in zip(*(column.tolist() for column in columns), strict=True)
        ]
    # Shapes were worked off one after the other; the order of the draws is mixed.
    return [puzzles[i] for i in rng.permutation(len(puzzles))]


def _values(shape: Shape, numbers: IntArray, used: IntArray) -> tuple[IntArray, BoolArray]:
    """Values [N] of N expressions of one shape, and whether all their steps are whole numbers [N].

    numbers [N, n], used [N, n - 1] (places in OPERATORS): operator i stands between the numbers i and i + 1. Where a
    step is not whole the value is meaningless.
    """
    if isinstance(shape, int):
        return numbers[:, shape], np.ones(len(numbers), dtype=np.bool_)
    left, left_whole = _values(shape[0], numbers, used)
    right, right_whole = _values(shape[1], numbers, used)
    operator = used[:, _last_place(shape[0])]
    divisor = np.where(right == 0, 1, right)
    values = np.choose(operator, [left + right, left - right, left * right, left // divisor])
    is_whole = (operator != OPERATORS.index("/")) | ((right != 0) & (left % divisor == 0))
    return values, left_whole & right_whole & is_whole


def _tree(shape: Shape, numbers: Sequence[int], used: Sequence[int]) -> Tree:
    if isinstance(shape, int):
        return numbers[shape]
    operator = OPERATORS[used[_last_place(shape[0])]]
    return _tree(shape[0], numbers, used), operator, _tree(shape[1], numbers, used)


def _last_place(shape: Shape) -> int:
    return shape if isinstance(shape, int) else _last_place(shape[1])
