import math

import numpy as np

from gps_ray.learning.advantages import EPSILON, group_advantages, rollouts_with_verdict
from gps_ray.types import FinishReason, FloatArray, Rollout, RolloutStatus


def _by_loop(rewards: list[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    return [(reward - mean) / (std + EPSILON) for reward in rewards]


def test_advantages_of_ragged_groups_match_a_loop() -> None:
    rng = np.random.default_rng(0)
    groups: list[FloatArray] = [rng.normal(size=size).astype(np.float32) for size in (2, 8, 3, 16)]
    groups.append(np.array([1.0, 0.0, 0.0, 0.0]))
    result = group_advantages(groups)
    assert result.has_gradient.all()
    assert result.num_zero_variance == 0
    for rewards, advantages in zip(groups, result.advantages, strict=True):
        assert advantages.dtype == np.float32
        np.testing.assert_allclose(advantages, _by_loop([float(r) for r in rewards]), rtol=1e-5, atol=1e-6)


def test_zero_variance_groups_give_exactly_zero_and_are_counted() -> None:
    # Float32 0.1 has a mean that rounds: a test on the standard deviation would see a tiny spread and blow it up.
    groups: list[FloatArray] = [
        np.full(7, 0.1, dtype=np.float32),
        np.ones(4),
        np.zeros(4),
        np.array([0.3]),
        np.zeros(0),
        np.array([0.0, 1.0]),
    ]
    result = group_advantages(groups)
    assert result.has_gradient.tolist() == [False] * 5 + [True]
    assert result.num_zero_variance == 5
    assert [len(advantages) for advantages in result.advantages] == [7, 4, 4, 1, 0, 2]
    assert all((advantages == 0).all() for advantages in result.advantages[:5])


def test_a_failed_rollout_is_not_a_zero() -> None:
    def rollout(status: RolloutStatus) -> Rollout:
        return Rollout(
            prompt_tokens=np.array([3]),
            response_tokens=np.array([4]),
            sampled_logprobs=np.zeros(1),
            reward=float(status == RolloutStatus.RIGHT),
            status=status,
            finish_reason=FinishReason.STOP,
            policy_version=0,
        )

    group = [rollout(status) for status in (RolloutStatus.RIGHT, RolloutStatus.FAILED, RolloutStatus.RIGHT)]
    kept = rollouts_with_verdict(group)
    assert [r.status for r in kept] == [RolloutStatus.RIGHT, RolloutStatus.RIGHT]
    assert group_advantages([np.array([r.reward for r in kept])]).num_zero_variance == 1
