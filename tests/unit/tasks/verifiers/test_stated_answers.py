"""What a response states, as a vote counts it."""

from __future__ import annotations

import pytest

from gps_ray.base.types import Prompt
from gps_ray.tasks.interface import StatesAnswers
from gps_ray.tasks.registry import load_task


def _stated(task: str, response: str, source: str = "", **options: object) -> str | None:
    loaded = load_task(task, options)
    assert isinstance(loaded, StatesAnswers)
    return loaded.stated_answer(Prompt(prompt_id="", text="", answer="never read", task=source or task), response)


@pytest.mark.parametrize(
    ("task", "one", "other"),
    [
        ("math", r"so \boxed{\frac{1}{2}}", r"it is \boxed{0.5}"),
        ("math", r"\boxed{x^{2}+1}", "<answer>x^2 + 1</answer>"),
        ("gsm8k", "#### 1,234", "the total is 1234.00"),
        ("multiple_choice", r"\boxed{B}", "The answer is (b)."),
        ("exact", "<answer> Paris. </answer>", "paris"),
    ],
)
def test_spellings_of_one_answer_are_one_vote(task: str, one: str, other: str) -> None:
    assert _stated(task, one) == _stated(task, other) != ""


@pytest.mark.parametrize("task", ["math", "gsm8k", "multiple_choice", "exact"])
def test_nothing_stated_is_no_vote(task: str) -> None:
    assert _stated(task, "") == ""


def test_wrappers_ask_what_they_wrap_and_say_where_it_cannot_tell() -> None:
    shaped = {"format": "boxed", "format_reward": 0.1}
    assert _stated("math", r"\boxed{7}", **shaped) == _stated("by_source", r"\boxed{7}", "aime") == "7"
    assert _stated("by_source", "(1 + 2)", "countdown") is None
