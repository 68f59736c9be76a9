"""From responses to outcomes: every response gets a verdict, every group becomes a value."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from gps_ray.base.types import GroupFailure, GroupOutcome, Prompt, Rollout, RolloutGroup, RolloutStatus
from gps_ray.rollout.engine import GeneratedGroup
from gps_ray.rollout.verifier_pool import Judgement, VerifierPool

__all__ = ["score"]

log = logging.getLogger(__name__)


def score(
    verifiers: VerifierPool, prompts: Sequence[Prompt], groups: Sequence[GeneratedGroup], policy_version: int
) -> tuple[list[RolloutGroup | GroupFailure], str]:
    """One value per prompt, in the order given, and the most frequent reason for a missing verdict ("" for none).

    All responses are judged side by side. A verifier that raises, or whose verdict is not a finite reward and a
    status, has come to no verdict: that response is FAILED, never WRONG. A prompt without any response is a
    GroupFailure. Errors that gps-ray raises on purpose (a ground truth that is not in the task's notation, a verifier
    that cannot be started) pass through.
    """
    rows = list(zip(prompts, groups, strict=True))
    judgements = verifiers.judge([(prompt, response.text) for prompt, group in rows for response in group.responses])
    reasons = Counter(j.reason or "FAILED" for j in judgements if j.status == RolloutStatus.FAILED)
    for reason, count in reasons.most_common(3):
        log.warning("no verdict on %d of %d responses: %s", count, len(judgements), reason)
    following = iter(judgements)
    scored = [
        _scored(prompt, group, policy_version, following)
        if group.responses
        else GroupFailure(prompt_id=prompt.prompt_id, reason="the engine gave no response")
        for prompt, group in rows
    ]
    return scored, reasons.most_common(1)[0][0] if reasons else ""


def _scored(prompt: Prompt, group: GeneratedGroup, version: int, judgements: Iterator[Judgement]) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            prompt_tokens=group.prompt_tokens,
            response_tokens=response.tokens,
            sampled_logprobs=response.sampled_logprobs,
            reward=judgement.reward,
            status=judgement.status,
            finish_reason=response.finish_reason,
            policy_version=version,
        )
        for response, judgement in zip(group.responses, judgements, strict=False)
    )
    outcome = GroupOutcome(
        prompt_id=prompt.prompt_id,
        policy_version=version,
        rewards=np.array([rollout.reward for rollout in rollouts], dtype=np.float32),
        status=np.array([rollout.status for rollout in rollouts], dtype=np.int8),
        response_lengths=np.array([len(rollout.response_tokens) for rollout in rollouts], dtype=np.int32),
    )
    return RolloutGroup(outcome=outcome, rollouts=rollouts)
