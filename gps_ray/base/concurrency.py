"""Coroutines that stand or fall together, or one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

__all__ = ["Milestone", "gather_or_cancel", "with_beside"]

T = TypeVar("T")


async def gather_or_cancel(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all side by side; results in their order. Where one fails the others are cancelled, and have ended before
    its error is raised (``asyncio.gather`` would leave them running)."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def with_beside(main: Coroutine[Any, Any, T], beside: Coroutine[Any, Any, Any]) -> T:
    """The value of ``main``. ``beside`` begins first and runs along; it is not waited for, and where it fails both end
    with its error."""
    side, task = asyncio.ensure_future(beside), asyncio.ensure_future(main)
    try:
        while not task.done():
            await asyncio.wait([each for each in (side, task) if not each.done()], return_when=asyncio.FIRST_COMPLETED)
            if side.done():
                side.result()
        return task.result()
    finally:
        for each in (side, task):
            each.cancel()
        await asyncio.gather(side, task, return_exceptions=True)


class Milestone:
    """How far something has come, as a number that only grows; others wait until it is far enough."""

    def __init__(self, at: int) -> None:
        self.at = at
        self._events: dict[int, asyncio.Event] = {}

    async def reached(self, number: int) -> None:
        """Return once ``at`` is at least ``number``."""
        if self.at < number:
            await self._events.setdefault(number, asyncio.Event()).wait()

    def advance(self, number: int) -> None:
        """Come as far as ``number``; all who wait for it or for less go on."""
        self.at = number
        for waited_for in [key for key in self._events if key <= number]:
            self._events.pop(waited_for).set()

    @asynccontextmanager
    async def turn(self, number: int) -> AsyncIterator[None]:
        """A block that begins when the one of ``number - 1`` has ended, and takes the milestone to ``number``. It stays
        behind where the block fails: nobody may go on as if it had not."""
        await self.reached(number - 1)
        yield
        self.advance(number)
