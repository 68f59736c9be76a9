"""Every advantage against python loops, on ragged groups and responses."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gps_ray.base.types import FloatArray, RolloutStatus
from gps_ray.config import LearningConfig
from gps_ray.learning.advantages.batch_normalised import batch_normalised
from gps_ray.learning.advantages.gae import generalised_advantages
from gps_ray.learning.advantages.group_relative import EPSILON, group_centred, group_normalised
from gps_ray.learning.advantages.leave_one_out import leave_one_out
from gps_ray.learning.advantages.returns import discounted_returns
from gps_ray.learning.algorithms import resolve_algorithm
from gps_ray.learning.groups import rollouts_with_verdict, train_groups
from tests.unit.learning.rollouts import WITH_FAILURE, ids, make_groups, make_tables

RAGGED: list[FloatArray] = [
    *(np.random.default_rng(size).normal(size=size) for size in (2, 8, 3, 16)),
    np.array([1.0, 0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize("rewards", RAGGED)
def test_group_advantages_match_loops(rewards: FloatArray) -> None:
    values = [float(r) for r in rewards]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    others = [sum(values[:i] + values[i + 1 :]) / (len(values) - 1) for i in range(len(values))]
    np.testing.assert_allclose(group_normalised(rewards), [(v - mean) / (std + EPSILON) for v in values], rtol=1e-9)
    np.testing.assert_allclose(group_centred(rewards), [v - mean for v in values], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(leave_one_out(rewards), [v - o for v, o in zip(values, others, strict=True)], rtol=1e-9)


def test_a_tiny_spread_gives_no_advantages_of_full_size() -> None:
    config = LearningConfig()
    normalised = resolve_algorithm(config, 8)[0].group_advantages
    assert normalised is not None
    lengths = np.array([80.0, 120.0, 90.0, 110.0])
    shaped = 1 - 1e-4 * lengths
    assert np.abs(group_normalised(shaped)).max() > 1
    np.testing.assert_allclose(normalised(shaped), (shaped - shaped.mean()) / (0.01 + EPSILON))
    assert np.abs(normalised(shaped)).max() < 0.25
    # Right and wrong are as they were, to the bit, in groups of any size.
    for size in (2, 8, 9000):
        for num_right in (1, size // 2, size - 1):
            rewards = np.arange(size) < num_right
            assert normalised(rewards).tobytes() == group_normalised(rewards).tobytes()
    without = resolve_algorithm(config.model_copy(update={"min_reward_std": 0.0}), 8)[0].group_advantages
    assert without is not None
    assert without(shaped).tobytes() == group_normalised(shaped).tobytes()


@pytest.mark.parametrize("advantages", [group_normalised, group_centred, leave_one_out])
def test_groups_without_variance_give_exactly_zero(advantages: object) -> None:
    # 0.1 has a mean that rounds: a test on the standard deviation would see a tiny spread and blow it up.
    for rewards in (np.full(7, 0.1), np.ones(4), np.zeros(4), np.array([0.3]), np.zeros(0)):
        result = advantages(rewards)  # type: ignore[operator]
        assert result.shape == rewards.shape
        assert (result == 0).all()


def _tokens(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask [M, T]: each row's response somewhere in the middle, garbage around it."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((4, 9), dtype=bool)
    for row, (first, length) in enumerate([(0, 9), (2, 4), (8, 1), (3, 6)]):
        mask[row, first : first + length] = True
    rewards, values = rng.normal(size=(2, 4, 9))
    return torch.tensor(rewards), torch.tensor(values), torch.tensor(mask)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_returns_match_loops(gamma: float) -> None:
    rewards, _, mask = _tokens(0)
    returns = discounted_returns(rewards, mask, gamma)
    for m in range(4):
        places = [k for k in range(9) if mask[m, k]]
        for i, k in enumerate(places):
            expected = sum(gamma**j * float(rewards[m, p]) for j, p in enumerate(places[i:]))
            assert float(returns[m, k]) == pytest.approx(expected)
    assert (returns[~mask] == 0).all()


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_generalised_advantages_match_the_sum_of_temporal_differences(gamma: float, lam: float) -> None:
    rewards, values, mask = _tokens(1)
    advantages, targets = generalised_advantages(rewards, values, mask, gamma=gamma, lam=lam)
    for m in range(4):
        places = [k for k in range(9) if mask[m, k]]
        r, v = [float(rewards[m, k]) for k in places], [*(float(values[m, k]) for k in places), 0.0]
        for i, k in enumerate(places):
            # Equation 16: A_t = sum_l (gamma lambda)^l delta_{t+l}, written without a recursion.
            expected = sum((gamma * lam) ** (j - i) * (r[j] + gamma * v[j + 1] - v[j]) for j in range(i, len(places)))
            assert float(advantages[m, k]) == pytest.approx(expected)
            assert float(targets[m, k]) == pytest.approx(expected + v[i])
    assert (advantages[~mask] == 0).all()
    assert (targets[~mask] == 0).all()


def test_the_batch_is_normalised_over_all_its_tokens() -> None:
    parts = [_tokens(seed) for seed in range(3)]
    result = batch_normalised([p[0].float() for p in parts], [p[2] for p in parts], lambda values: values)
    tokens = [float(p[0][m, k]) for p in parts for m in range(4) for k in range(9) if p[2][m, k]]
    mean = sum(tokens) / len(tokens)
    std = math.sqrt(sum((token - mean) ** 2 for token in tokens) / len(tokens))
    for (rewards, _, mask), normalised in zip(parts, result, strict=True):
        expected = torch.where(mask, (rewards - mean) / (std + EPSILON), 0.0)
        torch.testing.assert_close(normalised.double(), expected, atol=1e-6, rtol=1e-6)


def test_equal_advantages_stay_zero_after_normalisation() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    (result,) = batch_normalised([torch.full((2, 3), 0.1)], [mask], lambda values: values)
    assert result.abs().max() < 1e-3


def test_a_failed_rollout_is_not_a_zero() -> None:
    (group,) = make_groups([WITH_FAILURE])
    kept = rollouts_with_verdict(group.rollouts)
    assert [r.status for r in kept] == [RolloutStatus.RIGHT, RolloutStatus.WRONG]
    (trained,) = train_groups(make_tables([group]), ids([group]))
    assert trained.rewards.tolist() == [1.0, 0.0]
    assert len(trained.rows) == 2
