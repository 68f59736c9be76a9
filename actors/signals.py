"""SIGTERM and Ctrl-C as wishes: the step at hand ends and is checkpointed, if it does so in time."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from gps_ray.config import RunConfig
from gps_ray.loop.breaks import RunStopped, StopRequest

__all__ = ["end_on_signals", "handlers_kept", "stopping_on_signals"]

_HEARD = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping_on_signals(stop: StopRequest, config: RunConfig) -> Iterator[None]:
    """Within a coroutine: the first signal asks ``stop``; ``run.preemption_grace_s`` later, or at a second one, what
    goes on in the block is cancelled and RunStopped is raised. Changes nothing outside of the main thread, which alone
    hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    late: list[asyncio.TimerHandle] = []

    def heard(name: str) -> None:
        if stop.reason:
            task.cancel()
            return
        stop.ask(name)
        late.append(loop.call_later(config.preemption_grace_s, task.cancel))
        print(
            f"{name}: ending after the step at hand with a checkpoint, or in run.preemption_grace_s="
            f"{config.preemption_grace_s:g} s without",
            file=sys.stderr,
            flush=True,
        )

    with handlers_kept():
        for number in _HEARD:
            loop.add_signal_handler(number, heard, number.name)
        try:
            yield
        except asyncio.CancelledError:
            if not stop.reason:
                raise
            raise RunStopped(stop.reason, "ended within a step; --resume goes on from the last checkpoint") from None
        finally:
            for handle in late:
                handle.cancel()
            for number in _HEARD:
                loop.remove_signal_handler(number)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """After the block signals are heard as before it. Ray's start puts a handler of its own in SIGTERM's place, under
    which a driver ends in a native stack; asyncio leaves the default behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _HEARD}
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # Ray's own handler was asked first
            _say_and_end(signal.SIGTERM)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_on_signals() -> None:
    """From now on a signal ends this process in one line, with the exit code that a shell expects."""

    for number in _HEARD:
        signal.signal(number, _say_and_end)


def _say_and_end(number: int, _: object = None) -> NoReturn:
    print(f"{signal.Signals(number).name}: ended", file=sys.stderr, flush=True)
    sys.exit(128 + number)
