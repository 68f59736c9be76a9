"""A plain function as a verifier: what it may take, what it may give, and what is said where it does not fit."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import RolloutStatus
from tests.unit.tasks.own_functions import PROMPT, own_function, reward

RIGHT, WRONG, FAILED = RolloutStatus.RIGHT, RolloutStatus.WRONG, RolloutStatus.FAILED


@pytest.mark.parametrize("name", ["reward", "compute_score"])
def test_it_is_given_what_it_asks_for_by_name(name: str) -> None:
    task = pickle.loads(pickle.dumps(own_function(name)))  # noqa: S301
    assert task.name == f"{reward.__module__}:{name}"
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
        ("true score", (1.0, RIGHT)),
        ("acc", (-1.0, RIGHT)),
        ("success", (2.0, WRONG)),
        ("correct", (1.0, RIGHT)),
    ],
)
def test_what_it_gives_is_a_reward_and_a_success(response: str, verdict: tuple[float, RolloutStatus]) -> None:
    assert own_function("by_name").verify(PROMPT, response) == verdict


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("text score", "'score' of the dict to be a number, got '1'"),
        ("torn", "expected one success in the dict, got .'success': False, 'acc': True"),
    ],
)
def test_a_dict_that_is_no_verdict_is_said(response: str, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        own_function("by_name").verify(PROMPT, response)


def test_success_of_a_reward_is_by_threshold() -> None:
    task = own_function("by_name", success_threshold=0.5)
    assert task.verify(PROMPT, "half") == (0.5, RIGHT)
    assert task.verify(PROMPT, "score") == (0.3, WRONG)


def test_options_are_further_arguments() -> None:
    task = pickle.loads(pickle.dumps(own_function("with_options", bonus=0.25, length=1)))  # noqa: S301
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
        own_function(name, **options)
