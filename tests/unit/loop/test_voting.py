"""maj@k against every subset, counted one by one."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from gps_ray.base.types import RolloutStatus, StatedAnswer
from gps_ray.loop.voting import maj_at_k

RIGHT, WRONG, FAILED = (int(status) for status in (RolloutStatus.RIGHT, RolloutStatus.WRONG, RolloutStatus.FAILED))


def _vote(subset: tuple[StatedAnswer, ...], row: list[StatedAnswer]) -> float:
    votes = Counter(answer for answer, _ in subset if answer)
    if not votes:
        return 0.0
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    worth = {a: np.mean([status == RIGHT for other, status in row if other == a]) for a in winners}
    return float(np.mean(list(worth.values())))


def _slowly(row: list[StatedAnswer], k: int) -> float:
    return float(np.mean([_vote(subset, row) for subset in combinations(row, k)]))


def test_the_expectation_is_that_of_all_subsets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        num = int(rng.integers(1, 9))
        answers = rng.integers(0, 4, num)  # 0 states nothing, 1 is right
        row = [("" if a == 0 else str(a), RIGHT if a == 1 else WRONG) for a in answers]
        for k in range(1, num + 1):
            assert maj_at_k([row], k)[0] == pytest.approx(_slowly(row, k), abs=1e-12), (row, k)


def test_an_answer_that_is_judged_both_ways_counts_by_share() -> None:
    row = [("7", RIGHT), ("7", WRONG), ("7", FAILED), ("8", WRONG)]
    assert maj_at_k([row], 3)[0] == pytest.approx(_slowly(row, 3))
    assert maj_at_k([row], 4)[0] == pytest.approx(1 / 3)


def test_the_ends_are_exact_and_fewer_responses_than_k_are_unknown() -> None:
    right, wrong = [("1", RIGHT)] * 64, [("2", WRONG)] * 64
    values = maj_at_k([right, wrong, right[:2], [("", WRONG)] * 4], 4)
    assert values[0] == 1.0
    assert values[1] == 0.0
    assert np.isnan(values[2])
    assert values[3] == 0.0
    with pytest.raises(ValueError, match="k >= 1"):
        maj_at_k([right], 0)


def test_the_majority_beats_the_mean_where_wrong_answers_differ() -> None:
    row = [("1", RIGHT)] * 26 + [(str(i + 10), WRONG) for i in range(38)]
    assert maj_at_k([row], 1)[0] == pytest.approx(26 / 64)
    assert maj_at_k([row], 32)[0] > 0.99
