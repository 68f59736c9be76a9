"""From responses to outcomes: every response gets a verdict, every group becomes a value."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from gps_ray.base.types import (
    FinishReason,
    GroupFailure,
    GroupOutcome,
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutStatus,
    StatedAnswer,
)
from gps_ray.rollout.engine import GeneratedGroup
from gps_ray.rollout.verifier_pool import Judgement, VerifierPool

__all__ = ["score"]

log = logging.getLogger(__name__)

_TRUNCATED = Judgement(0.0, RolloutStatus.WRONG, answer="")


def score(
    verifiers: VerifierPool,
    prompts: Sequence[Prompt],
    groups: Sequence[GeneratedGroup],
    policy_version: int,
    *,
    truncated_is_wrong: bool = False,
    with_answers: bool = False,
) -> tuple[list[RolloutGroup | GroupFailure], str, tuple[tuple[StatedAnswer, ...], ...]]:
    """One value per prompt, in the order given; the most frequent reason for a missing verdict ("" for none); and
    ``with_answers`` what the responses of each group state, else ().

    All responses are judged side by side. A verifier that raises, or whose verdict is not a finite reward and a
    status, has come to no verdict: that response is FAILED, never WRONG. With ``truncated_is_wrong`` a response that
    was cut off at the limit of tokens is WRONG with reward 0, and no verifier is asked. A prompt without any response
    is a GroupFailure. Errors that gps-ray raises on purpose (a ground truth that is not in the task's notation, a
    verifier that cannot be started) pass through.
    """
    rows = list(zip(prompts, groups, strict=True))
    responses = [(prompt, response) for prompt, group in rows for response in group.responses]
    is_cut = [truncated_is_wrong and response.finish_reason is FinishReason.LENGTH for _, response in responses]
    judged = verifiers.judge(
        [(prompt, response.text) for (prompt, response), cut in zip(responses, is_cut, strict=True) if not cut],
        with_answers,
    )
    reasons = Counter(j.reason or "FAILED" for j in judged if j.status == RolloutStatus.FAILED)
    for reason, count in reasons.most_common(3):
        log.warning("no verdict on %d of %d responses: %s", count, len(judged), reason)
    asked = iter(judged)
    judgements = [_TRUNCATED if cut else next(asked) for cut in is_cut]
    following = iter(judgements)
    scored = [
        _scored(prompt, group, policy_version, following)
        if group.responses
        else GroupFailure(prompt_id=prompt.prompt_id, reason="the engine gave no response")
        for prompt, group in rows
    ]
    stated = iter([(judgement.answer, int(judgement.status)) for judgement in judgements])
    answers = tuple(tuple(islice(stated, len(group.responses))) for _, group in rows if group.responses)
    return scored, reasons.most_common(1)[0][0] if reasons else "", answers if with_answers else ()


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
