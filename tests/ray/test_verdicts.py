"""What tasks and plain functions say in the pool's processes, as it comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import reasoning_gym

from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import RolloutConfig
from gps_ray.rollout.verifier_pool import Judgement, VerifierPool
from gps_ray.tasks.reasoning_gym import ReasoningGym
from gps_ray.tasks.registry import load_task
from gps_ray.tasks.verifiers.math import Math
from tests.unit.tasks.gym_sets import gym_prompt
from tests.unit.tasks.own_functions import PROMPT, own_function
from tests.unit.tasks.verifiers.hostile import ANSWER, hostile_responses
from tests.unit.tasks.verifiers.pairs import misjudged, pairs

pytestmark = pytest.mark.ray

RIGHT, WRONG, FAILED = RolloutStatus.RIGHT, RolloutStatus.WRONG, RolloutStatus.FAILED


@pytest.fixture
def judge() -> Iterator[Any]:
    pools = []

    def judge(task: Any, *responses: str, deadline_s: float = 30) -> list[Judgement]:
        pools.append(VerifierPool(task, RolloutConfig(num_verifiers=1, verify_deadline_s=deadline_s)))
        return pools[-1].judge([(PROMPT, response) for response in responses])

    yield judge
    for pool in pools:
        pool.close()


def test_what_is_no_reward_is_no_verdict_and_says_so(judge: Any) -> None:
    nonsense = ["none", "text", "nan", "list", "no keys", "half right", "unknown"]
    judged = judge(own_function("by_name"), *nonsense, "true")
    assert [judgement.status for judgement in judged] == [FAILED] * len(nonsense) + [RIGHT]
    for judgement, said in zip(
        judged,
        [
            "got None",
            "got '1.0'",
            "finite reward",
            "got [1.0]",
            "got the keys ['value']",
            "'acc' of the dict",
            "KeyError",
        ],
        strict=False,
    ):
        assert said in judgement.reason


def test_async_functions_run_side_by_side_with_a_deadline_each(judge: Any) -> None:
    a, hangs, b, raises, quits, c = judge(own_function("waits"), "a", "hang", "b", "raise", "quit", "c", deadline_s=3)
    # Each counts those that had begun when it was done: all three.
    assert [judgement.reward for judgement in (a, b, c)] == [3.0] * 3
    assert hangs.reason.endswith("no verdict within rollout.verify_deadline_s=3 s")
    assert raises.reason == "ValueError: no judge"
    assert quits.reason == "SystemExit: 0"


def test_batched_functions_get_batches_and_a_bad_response_costs_itself(judge: Any) -> None:
    task = own_function("batched")
    assert task.verify(PROMPT, "4") == (1.0, RIGHT)
    right, half, none, raises, wrong = judge(task, "4", "half", "none", "raise", "5")
    assert (right.status, wrong.status, half.reward) == (RIGHT, WRONG, 0.5)
    assert "got None" in none.reason
    assert raises.reason == "ValueError: no judge"
    assert [judgement.reward for judgement in judge(own_function("batched_waits", batch_size=2), "a", "b", "c")] == [
        2,
        2,
        1,
    ]
    assert "expected a list of 1 rewards, got []" in judge(own_function("too_few"), "a", "b")[0].reason


def _sum(answer: str) -> Prompt:
    return Prompt(prompt_id="p", text="how much?", answer=answer, task="math")


def test_the_table_of_answer_pairs() -> None:
    """Here for its length alone: seconds in the computer algebra."""
    task, table = Math(), list(pairs())
    assert len(table) > 300
    assert misjudged(task, table) == []
    assert 0 < task.num_disagreements < len(table) / 3
    assert len(task.disagreements) == min(task.num_disagreements, 100)


def test_what_the_graders_disagree_on_travels_back_from_the_pool() -> None:
    pool = VerifierPool(
        load_task("by_source", {"format": "boxed", "format_reward": 0.1}), RolloutConfig(num_verifiers=1)
    )
    try:
        judged = pool.judge([(_sum("x^2+2x+1"), "\\boxed{(x+1)^2}"), (_sum("4"), "\\boxed{4}")])
        notes = pool.take_notes()
    finally:
        pool.close()
    assert [judgement.status for judgement in judged] == [RolloutStatus.RIGHT] * 2
    assert notes.count == 1
    assert notes.kept == [
        {
            "answer": "x^2+2x+1",
            "response_end": "\\boxed{(x+1)^2}",
            "math_verify": True,
            "second_grader": False,
        }
    ]
    assert pool.take_notes().count == 0


@pytest.mark.slow
def test_5000_hostile_responses_to_maths() -> None:
    pool = VerifierPool(Math(), RolloutConfig())
    try:
        judged = pool.judge([(_sum(ANSWER), response) for response in hostile_responses(5000)])
    finally:
        pool.close()
    statuses = [judgement.status for judgement in judged]
    assert RolloutStatus.RIGHT not in statuses
    assert statuses.count(RolloutStatus.FAILED) <= 5


def test_hostile_responses_to_reasoning_gym() -> None:
    """A family with the default scorer and one whose scorer evaluates, over every answer format."""
    names = ("chain_sum", "countdown")
    prompts = [gym_prompt(name, reasoning_gym.create_dataset(name, seed=3, size=1)[0]) for name in names]
    responses = hostile_responses(100)
    for answer_format in ("whole", "boxed"):
        pool = VerifierPool(ReasoningGym(answer_format=answer_format), RolloutConfig(num_verifiers=1))
        try:
            judged = pool.judge([(prompt, response) for prompt in prompts for response in responses])
        finally:
            pool.close()
        assert Counter(judgement.status for judgement in judged)[RolloutStatus.RIGHT] == 0
        assert {judgement.status for judgement in judged} <= {RolloutStatus.WRONG, RolloutStatus.FAILED}
        assert sum(judgement.status == RolloutStatus.FAILED for judgement in judged) <= len(judged) // 20
