"""maj@k: how often is the answer that most of k responses state the right one?"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from gps_ray.base.types import FloatArray, RolloutStatus, StatedAnswer

__all__ = ["maj_at_k"]


def maj_at_k(answers: Sequence[Sequence[StatedAnswer]], k: int) -> FloatArray:
    """Expected share of majority votes among k responses that come out right, per prompt [N].

    ``answers`` [N] of n responses each: what it states ("" for nothing) and its status. The expectation is exact, over
    all C(n, k) subsets of k of the n responses, so it is unbiased like pass@k, and nothing is drawn. A response without
    an answer has no vote; the answer with most votes wins, ties are shared; nobody voting is wrong. An answer counts
    for as much as the share of its responses that the verifier called right (0 or 1 where it judges answers alone).
    NaN where n < k.
    """
    if k < 1:
        raise ValueError(f"maj@k needs k >= 1, got {k}")
    return np.array([_expected_vote(row, k) if len(row) >= k else np.nan for row in answers], dtype=np.float64)


def _expected_vote(row: Sequence[StatedAnswer], k: int) -> float:
    by_answer: dict[str, list[bool]] = {}
    for answer, status in row:
        if answer:
            by_answer.setdefault(answer, []).append(status == RolloutStatus.RIGHT)
    num_silent = len(row) - sum(map(len, by_answer.values()))
    total = comb(len(row), k)
    value = 0.0
    for answer, right in by_answer.items():
        if any(right):
            others = [len(other) for name, other in by_answer.items() if name != answer]
            value += float(np.mean(right)) * _chance_to_win(len(right), others, num_silent, k, total)
    return float(value)


def _chance_to_win(own: int, others: Sequence[int], num_silent: int, k: int, total: int) -> float:
    """Chance that an answer with ``own`` responses wins among k drawn of all, a tie with t others counting 1 / (t + 1).

    For j own votes, ``ways[t, m]`` counts the choices of m responses in which t other answers have j votes and none has
    more. Whole numbers throughout, so a certain win is exactly 1.
    """
    chance = 0.0
    for j in range(1, min(own, k) + 1):
        rest = k - j
        ways = {(0, m): comb(num_silent, m) for m in range(min(num_silent, rest) + 1)}
        for size in others:
            grown: dict[tuple[int, int], int] = {}
            for (ties, m), count in ways.items():
                for votes in range(min(size, j, rest - m) + 1):
                    key = ties + (votes == j), m + votes
                    grown[key] = grown.get(key, 0) + count * comb(size, votes)
            ways = grown
        won = sum(count / (ties + 1) for (ties, m), count in ways.items() if m == rest)
        chance += comb(own, j) * won / total
    return chance
