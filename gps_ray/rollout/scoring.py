"""From responses to outcomes: every response gets a verdict, every group becomes a value."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from gps_ray.base.errors import GpsRayError
from gps_ray.base.types import FinishReason, GroupFailure, GroupOutcome, Prompt, Rollout, RolloutGroup, RolloutStatus
from gps_ray.rollout.engine import GeneratedGroup, GeneratedResponse
from gps_ray.tasks.interface import Task, Verdict

__all__ = ["score"]

log = logging.getLogger(__name__)

_FAILED: Verdict = (0.0, RolloutStatus.FAILED)
_TRUNCATED: Verdict = (0.0, RolloutStatus.WRONG)


def score(
    task: Task,
    prompts: Sequence[Prompt],
    groups: Sequence[GeneratedGroup],
    policy_version: int,
    *,
    truncated_is_wrong: bool = False,
) -> list[RolloutGroup | GroupFailure]:
    """One value per prompt, in the order given.

    A verifier that raises, or whose verdict is not a finite reward and a status, has come to no verdict: that
    response is FAILED, never WRONG. With ``truncated_is_wrong`` a response that was cut off at the limit of tokens is
    WRONG with reward 0, and no verifier is asked. A prompt without any response is a GroupFailure. Errors that gps-ray
    raises on purpose (a ground truth that is not in the task's notation, a verifier that cannot be started) pass
    through.
    """
    return [
        _scored(task, prompt, group, policy_version, truncated_is_wrong)
        if group.responses
        else GroupFailure(prompt_id=prompt.prompt_id, reason="the engine gave no response")
        for prompt, group in zip(prompts, groups, strict=True)
    ]


def _scored(
    task: Task, prompt: Prompt, group: GeneratedGroup, policy_version: int, truncated_is_wrong: bool
) -> RolloutGroup:
    def verdict(response: GeneratedResponse) -> Verdict:
        if truncated_is_wrong and response.finish_reason is FinishReason.LENGTH:
            return _TRUNCATED
        return _verdict(task, prompt, response.text)

    verdicts = [verdict(response) for response in group.responses]
    rollouts = tuple(
        Rollout(
            prompt_tokens=group.prompt_tokens,
            response_tokens=response.tokens,
            sampled_logprobs=response.sampled_logprobs,
            reward=reward,
            status=status,
            finish_reason=response.finish_reason,
            policy_version=policy_version,
        )
        for response, (reward, status) in zip(group.responses, verdicts, strict=True)
    )
    outcome = GroupOutcome(
        prompt_id=prompt.prompt_id,
        policy_version=policy_version,
        rewards=np.array([rollout.reward for rollout in rollouts], dtype=np.float32),
        status=np.array([rollout.status for rollout in rollouts], dtype=np.int8),
        response_lengths=np.array([len(rollout.response_tokens) for rollout in rollouts], dtype=np.int32),
    )
    return RolloutGroup(outcome=outcome, rollouts=rollouts)


def _verdict(task: Task, prompt: Prompt, response: str) -> Verdict:
    try:
        reward, status = task.verify(prompt, response)
        if math.isfinite(reward):
            return float(reward), RolloutStatus(status)
        reason = f"reward {reward} is not finite"
    except GpsRayError:
        raise
    # A verifier is other people's code: whatever it raises must not end the run.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    log.warning("task %s gave no verdict on a response to prompt %s: %s", task.name, prompt.prompt_id, reason)
    return _FAILED
