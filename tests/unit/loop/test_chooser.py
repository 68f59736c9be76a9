"""When selections are made, and what they may not take."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from gps_ray.base.types import Selection, SelectionRequest
from gps_ray.loop.chooser import Chooser


class Requests:
    """A selector that gives every step two prompts of its own and remembers what it was asked."""

    def __init__(self) -> None:
        self.made: list[SelectionRequest] = []

    async def select(self, request: SelectionRequest) -> Selection:
        self.made.append(request)
        unknown = np.full(2, np.nan)
        return Selection(
            step=request.step,
            round=request.round,
            prompt_ids=(f"{request.step}.{request.round}a", f"{request.step}.{request.round}b"),
            num_rollouts=np.full(2, 4, np.int32),
            predicted_mean=unknown,
            predicted_std=unknown,
            slot_kind=np.zeros(2, np.int8),
            num_candidates=2,
        )


def _chooser(lag: int, num_steps_done: int = 0) -> tuple[Chooser, Requests]:
    selector: Any = Requests()
    chooser = Chooser(selector, num_prompts=2, group_size=4, max_policy_lag=lag, num_steps_done=num_steps_done)
    return chooser, selector


@pytest.mark.parametrize(
    ("lag", "made"),
    [
        (0, {0: [1], 1: [2], 2: [3], 3: [4], 4: [5]}),
        (2, {0: [1, 2, 3], 1: [4], 2: [], 3: [], 4: [5]}),
    ],
)
def test_a_selection_is_made_when_its_time_has_come_and_none_beyond_the_stop(lag: int, made: dict[int, Any]) -> None:
    chooser, selector = _chooser(lag)
    for observed, steps in made.items():
        before = len(selector.made)
        if observed:
            chooser.release(observed)
        asyncio.run(chooser.choose_ahead(observed, end=4))
        assert [request.step for request in selector.made[before:]] == steps


def test_prompts_in_flight_are_excluded_until_their_step_is_observed() -> None:
    chooser, selector = _chooser(lag=1)
    asyncio.run(chooser.choose_ahead(0, end=4))
    asyncio.run(chooser.another_round(1, 1, num_missing=1))
    assert selector.made[1].excluded == {"1.0a", "1.0b"}
    assert selector.made[2].excluded == {"1.0a", "1.0b", "2.0a", "2.0b"}
    assert selector.made[2].num_missing == 1
    chooser.release(1)
    asyncio.run(chooser.choose_ahead(1, end=4))
    assert selector.made[3].excluded == {"2.0a", "2.0b"}


def test_a_restored_selection_is_not_made_again() -> None:
    first, _ = _chooser(lag=0)
    asyncio.run(first.choose_ahead(0, end=1))
    chooser, selector = _chooser(lag=0, num_steps_done=0)
    chooser.keep(first[1])
    asyncio.run(chooser.choose_ahead(0, end=4))
    assert selector.made == []
    assert asyncio.run(chooser.selection(1)).prompt_ids == ("1.0a", "1.0b")
