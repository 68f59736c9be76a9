"""A plain function as a verifier: what it may take, what it may give, and what is said where it does not fit."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import RolloutConfig
from gps_ray.rollout.verifier_pool import Judgement, VerifierPool
from gps_ray.tasks.registry import load_task

PROMPT = Prompt(prompt_id="p", text="2 + 2 =", answer="4", task="sums", extra_info={"hint": "even"})
RIGHT, WRONG, FAILED = RolloutStatus.RIGHT, RolloutStatus.WRONG, RolloutStatus.FAILED

VALUES: dict[str, Any] = {
    "true": True,
    "false": False,
    "numpy true": np.bool_(True),
    "one": 1,
    "half": 0.5,
    "numpy half": np.float32(0.5),
    "score": {"score": 0.3},
    "high score": {"score": 1.5},
    "acc": {"score": -1.0, "acc": True, "pred": "4"},
    "success": {"reward": 2.0, "success": False},
    "correct": {"correct": 1},
    "none": None,
    "text": "1.0",
    "nan": math.nan,
    "list": [1.0],
    "no keys": {"value": 1.0},
    "half right": {"acc": 0.5},
}


def by_name(response: str) -> Any:
    return VALUES[response]


def reward(prompt: str, response: str, ground_truth: str, extra_info: Mapping[str, Any]) -> bool:
    return (prompt, ground_truth, extra_info) == ("2 + 2 =", "4", {"hint": "even"}) and response == "4"


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    assert (data_source, extra_info) == ("sums", {"hint": "even"})
    return float(solution_str == ground_truth)


def with_options(response: str, ground_truth: str, *, bonus: float, length: int = 0) -> float:
    return float(response == ground_truth) + bonus * (len(response) > length)


async def waits(response: str) -> float:
    if response == "hang":
        await asyncio.sleep(10**6)
    if response == "raise":
        raise ValueError("no judge")
    if response == "quit":
        raise SystemExit(0)
    running.append(response)
    await asyncio.sleep(0.05)
    return float(len(running))


running: list[str] = []


def batched(responses: Sequence[str], ground_truths: Sequence[str]) -> list[Any]:
    if "raise" in responses:
        raise ValueError("no judge")
    return [VALUES.get(response, response == truth) for response, truth in zip(responses, ground_truths, strict=True)]


async def batched_waits(responses: Sequence[str]) -> Any:
    await asyncio.sleep(0)
    return np.full(len(responses), float(len(responses)))


def too_few(responses: Sequence[str]) -> list[float]:
    return [1.0] * (len(responses) // 2)


def wants_more(response: str, weather: str) -> float:
    return 1.0


def _task(name: str, **options: Any) -> Any:
    return load_task(f"{__name__}:{name}", options)


@pytest.fixture
def judge() -> Iterator[Any]:
    pools = []

    def judge(task: Any, *responses: str, deadline_s: float = 30) -> list[Judgement]:
        pools.append(VerifierPool(task, RolloutConfig(num_verifiers=1, verify_deadline_s=deadline_s)))
        return pools[-1].judge([(PROMPT, response) for response in responses])

    yield judge
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("name", ["reward", "compute_score"])
def test_it_is_given_what_it_asks_for_by_name(name: str) -> None:
    task = pickle.loads(pickle.dumps(_task(name)))  # noqa: S301
    assert task.name == f"{__name__}:{name}"
    assert task.verify(PROMPT, "4") == (1.0, RIGHT)
    assert task.verify(PROMPT, "5") == (0.0, WRONG)


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("true", (1.0, RIGHT)),
        ("false", (0.0, WRONG)),
        ("numpy true", (1.0, RIGHT)),
        ("one", (1.0, RIGHT)),
        ("half", (0.5, WRONG)),
        ("numpy half", (0.5, WRONG)),
        ("score", (0.3, WRONG)),
        ("high score", (1.5, RIGHT)),
        ("acc", (-1.0, RIGHT)),
        ("success", (2.0, WRONG)),
        ("correct", (1.0, RIGHT)),
    ],
)
def test_what_it_gives_is_a_reward_and_a_success(response: str, verdict: tuple[float, RolloutStatus]) -> None:
    assert _task("by_name").verify(PROMPT, response) == verdict


def test_success_of_a_reward_is_by_threshold() -> None:
    task = _task("by_name", success_threshold=0.5)
    assert task.verify(PROMPT, "half") == (0.5, RIGHT)
    assert task.verify(PROMPT, "score") == (0.3, WRONG)


def test_what_is_no_reward_is_no_verdict_and_says_so(judge: Any) -> None:
    nonsense = ["none", "text", "nan", "list", "no keys", "half right", "unknown"]
    judged = judge(_task("by_name"), *nonsense, "true")
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


def test_options_are_further_arguments() -> None:
    task = pickle.loads(pickle.dumps(_task("with_options", bonus=0.25, length=1)))  # noqa: S301
    assert task.verify(PROMPT, "4") == (1.0, RIGHT)
    assert task.verify(PROMPT, "44") == (0.25, WRONG)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("with_options", {}, "needs a value for each .*: bonus"),
        ("with_options", {"bonus": 1, "bnous": 2}, "no such parameter: bnous"),
        ("with_options", {"bonus": 1, "response": "x"}, "is given that by gps-ray: response"),
        ("wants_more", {}, "needs a value for each of these, as it is given only prompt, response.*: weather"),
        ("reward", {"batch_size": 4}, "no such parameter: batch_size"),
        ("batched", {"batch_size": 0}, "expected a whole number from 1 on, got 0"),
        ("reward", {"success_threshold": "high"}, "success_threshold: expected a number, got 'high'"),
    ],
)
def test_options_that_do_not_fit_are_one_line(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.task_options[^\n]*{said}[^\n]*$"):
        _task(name, **options)


def test_async_functions_run_side_by_side_with_a_deadline_each(judge: Any) -> None:
    a, hangs, b, raises, quits, c = judge(_task("waits"), "a", "hang", "b", "raise", "quit", "c", deadline_s=3)
    # Each counts those that had begun when it was done: all three.
    assert [judgement.reward for judgement in (a, b, c)] == [3.0] * 3
    assert hangs.reason.endswith("no verdict within rollout.verify_deadline_s=3 s")
    assert raises.reason == "ValueError: no judge"
    assert quits.reason == "SystemExit: 0"


def test_batched_functions_get_batches_and_a_bad_response_costs_itself(judge: Any) -> None:
    task = _task("batched")
    assert task.verify(PROMPT, "4") == (1.0, RIGHT)
    right, half, none, raises, wrong = judge(task, "4", "half", "none", "raise", "5")
    assert (right.status, wrong.status, half.reward) == (RIGHT, WRONG, 0.5)
    assert "got None" in none.reason
    assert raises.reason == "ValueError: no judge"
    assert [judgement.reward for judgement in judge(_task("batched_waits", batch_size=2), "a", "b", "c")] == [2, 2, 1]
    assert "expected a list of 1 rewards, got []" in judge(_task("too_few"), "a", "b")[0].reason
