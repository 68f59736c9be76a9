"""Who waits for what, while it lasts: what a run that does not move says of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Wait", "Waits", "waiting_for", "waits_of_run"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that is waited for, for ``age_s`` seconds so far."""

    what: str
    age_s: float


class Waits:
    """The open waits of one run, from any thread. Whatever ends, by a result or an error, is progress, and so is what
    ``moved`` is told of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._open: dict[int, tuple[str, float]] = {}
        self._next = 0
        self._phase, self._phase_since = "starting", clock()
        self._moved_at: float | None = None  # before the first phase the driver works alone

    def moved(self) -> None:
        if self._moved_at is not None:
            self._moved_at = self._clock()

    def phase(self, name: str) -> None:
        """The part of a step that begins."""
        self._moved_at = self._clock()
        self._phase, self._phase_since = name, self._moved_at

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        with self._lock:
            key, self._next = self._next, self._next + 1
            self._open[key] = what, self._clock()
        try:
            yield
        finally:
            with self._lock:
                del self._open[key]
            self.moved()

    @property
    def quiet_s(self) -> float:
        """Seconds since anything moved; 0 before the first phase."""
        return 0.0 if self._moved_at is None else self._clock() - self._moved_at

    def oldest(self) -> list[Wait]:
        """All open waits, the longest first."""
        with self._lock:
            begun = sorted(self._open.values(), key=lambda entry: entry[1])
        return [Wait(what, self._clock() - since) for what, since in begun]

    def report(self, num: int = 4) -> str:
        """One line: the phase, and the ``num`` longest waits with their ages."""
        oldest = self.oldest()
        shown = [f"{wait.what} ({wait.age_s:.0f} s)" for wait in oldest[:num]]
        more = [f"{len(oldest) - num} more"] if len(oldest) > num else []
        waits = "; ".join([*shown, *more]) or "nothing remote: the driver itself is at work, or stuck"
        return (
            f"no progress for {self.quiet_s:.0f} s, in phase {self._phase} for {self._clock() - self._phase_since:.0f} "
            f"s; waited for: {waits}"
        )


waits_of_run: ContextVar[Waits | None] = ContextVar("waits_of_run", default=None)
"""Those of the run that the coroutine at hand belongs to."""


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Within the block the run, where there is one, waits for ``what``."""
    waits = waits_of_run.get()
    if waits is None:
        yield
        return
    with waits.during(what):
        yield
