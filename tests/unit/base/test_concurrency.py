"""Coroutines that stand or fall together."""

from __future__ import annotations

import asyncio

import pytest

from gps_ray.base.concurrency import gather_or_cancel


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
