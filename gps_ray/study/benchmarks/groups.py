"""Groups for benchmarks of an update, which costs the same whatever its tokens say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gps_ray.base.types import FinishReason, FloatArray, GroupOutcome, IntArray, Rollout, RolloutGroup, RolloutStatus

__all__ = ["half_right"]


def half_right(
    prompt_id: str, prompt_tokens: IntArray, responses: Sequence[tuple[IntArray, FloatArray]]
) -> RolloutGroup:
    """A group of these responses, tokens and their sampled log-probs [T]; every other one is right, so all have an
    advantage."""
    status = (np.arange(len(responses)) % 2).astype(np.int8)
    rollouts = tuple(
        Rollout(
            prompt_tokens=prompt_tokens,
            response_tokens=tokens,
            sampled_logprobs=logprobs,
            reward=float(right),
            status=RolloutStatus(right),
            finish_reason=FinishReason.STOP,
            policy_version=0,
        )
        for (tokens, logprobs), right in zip(responses, status.tolist(), strict=True)
    )
    outcome = GroupOutcome(
        prompt_id=prompt_id,
        policy_version=0,
        rewards=status.astype(np.float32),
        status=status,
        response_lengths=np.array([len(tokens) for tokens, _ in responses], dtype=np.int32),
    )
    return RolloutGroup(outcome=outcome, rollouts=rollouts)
