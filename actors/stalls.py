"""A run that does not move: say who waits for what, then do what the config says."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from actors.lost_head import end_now
from gps_ray.base.errors import StallError
from gps_ray.base.waits import Waits, waits_of_run
from gps_ray.config import RunConfig

__all__ = ["WaitsSink", "stall_watched"]

_LOOKS_PER_TIMEOUT = 8
END_S = 120.0  # so long a run that was told to stop may take to end its actors


class WaitsSink:
    """A progress sink of the loop: what it tells is progress."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    def phase(self, name: str) -> None:
        self._waits.phase(name)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._waits.moved()


@contextmanager
def stall_watched(name: str, config: RunConfig, end_s: float = END_S) -> Iterator[Waits]:
    """Within a coroutine: watch the waits of the run ``name``. Where nothing moves for ``run.stall_timeout_s``, a line
    says so, again after twice the time and so on; with ``run.on_stall=stop`` the block is cancelled instead and
    StallError raised, and where it does not even end the process does."""
    waits = Waits()
    token = waits_of_run.set(waits)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    ended, line = threading.Event(), ""

    def watch(timeout_s: float) -> None:
        nonlocal line
        due_s = timeout_s
        while not ended.wait(timeout_s / _LOOKS_PER_TIMEOUT):
            quiet_s = waits.quiet_s
            if quiet_s < timeout_s:
                due_s = timeout_s
                continue
            if quiet_s < due_s:
                continue
            due_s = 2 * quiet_s
            report = f"{name}: {waits.report()} (run.stall_timeout_s={timeout_s:g})"
            if config.on_stall == "warn":
                print(report, file=sys.stderr, flush=True)
                continue
            line = f"{report}; --resume goes on from the last checkpoint"
            loop.call_soon_threadsafe(task.cancel)
            if not ended.wait(end_s):
                end_now(line, StallError.exit_code)
            return

    if config.stall_timeout_s is not None:
        threading.Thread(target=watch, args=(config.stall_timeout_s,), name="stalls", daemon=True).start()
    try:
        yield waits
    except asyncio.CancelledError:
        if not line:
            raise
        raise StallError(line) from None
    finally:
        ended.set()
        waits_of_run.reset(token)
