"""Coroutines that stand or fall together."""

from __future__ import annotations

import asyncio

import pytest

from gps_ray.base.concurrency import Milestone, gather_or_cancel, with_beside


def test_results_come_in_the_order_of_the_coroutines() -> None:
    async def value(number: int) -> int:
        await asyncio.sleep(0.01 / number)
        return number

    async def whole() -> list[int]:
        return await gather_or_cancel(value(1), value(2), value(3))

    assert asyncio.run(whole()) == [1, 2, 3]


def test_the_others_have_ended_when_an_error_comes_out() -> None:
    ended: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("broken")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what it has to put away takes a while
            ended.append("waits")

    async def whole() -> None:
        with pytest.raises(RuntimeError, match="broken"):
            await gather_or_cancel(waits(), fails())
        assert ended == ["waits"]

    asyncio.run(whole())


def test_turns_come_in_the_order_of_their_numbers_whoever_asks_first() -> None:
    began: list[int] = []
    milestone = Milestone(3)

    async def take(number: int) -> None:
        async with milestone.turn(number):
            began.append(number)
            await asyncio.sleep(0)

    async def whole() -> None:
        await gather_or_cancel(*(take(number) for number in (6, 4, 5)))
        await milestone.reached(6)

    asyncio.run(whole())
    assert began == [4, 5, 6]


def test_nobody_goes_on_after_a_turn_that_failed() -> None:
    milestone = Milestone(0)

    async def fails() -> None:
        async with milestone.turn(1):
            raise RuntimeError("broken")

    async def waits() -> None:
        async with milestone.turn(2):
            raise AssertionError("the turn before it failed")

    async def whole() -> None:
        with pytest.raises(RuntimeError, match="broken"):
            await gather_or_cancel(waits(), fails())

    asyncio.run(whole())
    assert milestone.at == 0


def test_what_runs_beside_is_not_waited_for_and_its_error_ends_both() -> None:
    seen: list[str] = []

    async def forever() -> None:
        seen.append("beside")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def soon(value: int) -> int:
        seen.append("main")
        await asyncio.sleep(0)
        return value

    async def failing() -> None:
        raise ValueError("no weights")

    assert asyncio.run(with_beside(soon(3), forever())) == 3
    assert seen == ["beside", "main", "cancelled"]
    with pytest.raises(ValueError, match="no weights"):
        asyncio.run(with_beside(forever(), failing()))
    assert seen[3:] == ["beside", "cancelled"]
    assert asyncio.run(with_beside(soon(4), asyncio.sleep(0))) == 4
