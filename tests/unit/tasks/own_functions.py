"""Verifiers that a user would write as plain functions, at the top of a module that the pool's processes can import."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gps_ray.base.types import Prompt
from gps_ray.tasks.registry import load_task

PROMPT = Prompt(prompt_id="p", text="2 + 2 =", answer="4", task="sums", extra_info={"hint": "even"})

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
    "true score": {"score": True},
    "text score": {"score": "1"},
    "torn": {"success": False, "acc": True},
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


def own_function(name: str, **options: Any) -> Any:
    """The task that ``data.task`` and ``data.task_options`` make of one of them."""
    return load_task(f"{__name__}:{name}", options)
