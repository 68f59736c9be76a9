"""What counts as solved, and how many of a group's rollouts it was."""

from __future__ import annotations

import numpy as np
import pytest

import gps_ray
from gps_ray.integrations.success import Solved, count_successes

NONE = np.nan


def test_rollouts_without_a_reward_were_not_tried() -> None:
    rewards = {"right": np.array([1.0, 0.0, NONE, 0.9, 2.0, NONE]), "form": np.array([0.0, 1.0, 1.0, 1.0, NONE, NONE])}
    right, tried = count_successes(Solved("right"), rewards, 3)
    assert (right.tolist(), tried.tolist()) == ([1, 1], [2, 2])
    right, tried = count_successes(Solved("right", at_least=0.5), rewards, 3)
    assert (right.tolist(), tried.tolist()) == ([1, 2], [2, 2])
    # A comparison says False of a reward that is not there: nobody rewarded the last rollout, so it does not count.
    right, tried = count_successes(lambda by_name: by_name["form"] > 0, rewards, 3)
    assert (right.tolist(), tried.tolist()) == ([2, 1], [3, 2])


def test_a_rule_that_is_none_is_said() -> None:
    rewards = {"right": np.array([1.0, 0.0])}
    with pytest.raises(gps_ray.UsageError, match="no reward function is called 'wrong'; the trainer has right"):
        count_successes(Solved("wrong"), rewards, 2)
    with pytest.raises(gps_ray.UsageError, match=r"expected 2 values of 1 \(solved\), 0 or NaN.*0\.5"):
        count_successes(lambda by_name: by_name["right"] / 2, rewards, 2)
    with pytest.raises(gps_ray.UsageError, match="expected 2 values"):
        count_successes(lambda _: 1.0, rewards, 2)
