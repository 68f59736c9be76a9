"""An event loop whose clock jumps: for simulations of what takes hours, out of the coroutines that do it for real."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_in_virtual_time"]

T = TypeVar("T")


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on a loop whose ``time()`` starts at 0 and jumps to the next timer whenever every coroutine waits
    for one. All that waits must wait for timers or for each other: nothing else, such as a thread, is waited for.

    Raises RuntimeError where all wait and no timer is left.
    """
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        return runner.run(main)


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class _Jump(selectors.SelectSelector):
    """Asked to wait for so long, it advances the clock instead."""

    def __init__(self, loop: _VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("every coroutine waits for another: no timer is left to jump to")
        self._loop.advance(timeout)
        return ready
