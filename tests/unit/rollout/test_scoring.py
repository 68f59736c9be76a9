import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.types import FinishReason, GroupFailure, Prompt, RolloutGroup, RolloutStatus
from gps_ray.config import RolloutConfig
from gps_ray.rollout.engine import GeneratedGroup, GeneratedResponse
from gps_ray.rollout.scoring import score
from gps_ray.rollout.verifier_pool import VerifierPool

PROMPTS = [Prompt(prompt_id=name, text=name, answer="4", task="t") for name in ("a", "b")]


def _group(*texts: str) -> GeneratedGroup:
    return GeneratedGroup(
        prompt_tokens=np.array([7, 8], np.int32),
        responses=[
            GeneratedResponse(
                tokens=np.arange(len(text), dtype=np.int32),
                sampled_logprobs=np.full(len(text), -0.5, np.float32),
                text=text,
                finish_reason=FinishReason.STOP,
            )
            for text in texts
        ],
    )


class _Task:
    name = "t"
    bounds_its_own_work = True

    def verify(self, prompt: Prompt, response: str) -> Any:
        if response == "bad data":
            raise DataError("the ground truth is not a number")
        if response == "crash":
            raise RecursionError("too deep")
        return {"nan": (math.nan, RolloutStatus.RIGHT), "none": None, "status": (1.0, 17)}.get(
            response, (0.5, RolloutStatus.RIGHT) if response == prompt.answer else (-1.0, RolloutStatus.WRONG)
        )


def _score(groups: Sequence[GeneratedGroup]) -> list[RolloutGroup | GroupFailure]:
    return score(VerifierPool(_Task(), RolloutConfig()), PROMPTS[: len(groups)], groups, 5)[0]


def test_reward_and_status_are_kept_apart() -> None:
    first, second = _score([_group("4", "55"), _group("4")])
    assert isinstance(first, RolloutGroup)
    assert isinstance(second, RolloutGroup)
    assert first.outcome.prompt_id == "a"
    assert first.outcome.policy_version == 5
    assert first.outcome.rewards.tolist() == [0.5, -1.0]
    assert first.outcome.status.tolist() == [RolloutStatus.RIGHT, RolloutStatus.WRONG]
    assert first.outcome.response_lengths.tolist() == [1, 2]
    assert (first.outcome.num_right, first.outcome.num_tried) == (1, 2)
    assert [rollout.reward for rollout in first.rollouts] == [0.5, -1.0]
    assert first.rollouts[1].prompt_tokens.tolist() == [7, 8]
    assert first.rollouts[1].policy_version == 5
    assert second.outcome.prompt_id == "b"


@pytest.mark.parametrize("response", ["crash", "nan", "none", "status"])
def test_no_verdict_is_failed_never_wrong(response: str) -> None:
    (group,) = _score([_group("4", response, "5")])
    assert isinstance(group, RolloutGroup)
    assert group.outcome.status.tolist() == [RolloutStatus.RIGHT, RolloutStatus.FAILED, RolloutStatus.WRONG]
    assert group.outcome.num_tried == 2
    assert np.isfinite(group.outcome.rewards).all()


def test_an_error_that_is_no_fault_of_the_response_ends_the_run() -> None:
    with pytest.raises(DataError):
        _score([_group("4", "bad data")])


def test_a_prompt_without_responses_is_a_failure_of_the_group() -> None:
    first, second = _score([_group(), _group("4")])
    assert first == GroupFailure(prompt_id="a", reason="the engine gave no response")
    assert isinstance(second, RolloutGroup)


def test_a_truncated_response_is_judged_or_counts_as_wrong() -> None:
    group = _group("4", "4", "crash")
    responses = [
        replace(response, finish_reason=reason)
        for response, reason in zip(
            group.responses, (FinishReason.STOP, FinishReason.LENGTH, FinishReason.LENGTH), strict=True
        )
    ]
    for truncated_is_wrong, rewards, status in (
        (False, [0.5, 0.5, 0.0], [RolloutStatus.RIGHT, RolloutStatus.RIGHT, RolloutStatus.FAILED]),
        (True, [0.5, 0.0, 0.0], [RolloutStatus.RIGHT, RolloutStatus.WRONG, RolloutStatus.WRONG]),
    ):
        pool = VerifierPool(_Task(), RolloutConfig())
        changed = [replace(group, responses=responses)]
        (scored,), _ = score(pool, PROMPTS[:1], changed, 5, truncated_is_wrong=truncated_is_wrong)
        assert isinstance(scored, RolloutGroup)
        assert scored.outcome.rewards.tolist() == rewards
        assert scored.outcome.status.tolist() == status
