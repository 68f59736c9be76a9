"""Watching a run: a live display in a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from gps_ray.run.metrics import TRAIN_PASS_RATE, USEFUL_RATIO, VAL_PASS_1

__all__ = ["NamedLines", "PlainLines", "Progress", "format_duration"]

_SHOWN = ((USEFUL_RATIO, "useful"), (TRAIN_PASS_RATE, "train pass rate"), (VAL_PASS_1, "pass@1"))


def format_duration(seconds: float) -> str:
    """``75`` -> ``1:15``, ``3700`` -> ``1:01:40``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class PlainLines:
    """Lines for whoever watches without a terminal: what is said, and after ``quiet_s`` of silence what goes on.

    Each further silence may be twice as long, until something is said again: a wait of an hour is six lines, and a
    run whose steps are said more often than ``quiet_s`` shows nothing else. A context manager: within its block a
    thread looks at the clock once a second.
    """

    def __init__(
        self,
        doing: str,
        *,
        quiet_s: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doing = doing
        self._quiet_s = self._patience_s = quiet_s
        self._stream = stream if stream is not None else sys.stdout
        self._clock = clock
        self._start = self._said = clock()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PlainLines:
        self._start = self._said = self._clock()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def doing(self, what: str) -> None:
        """From now on this goes on. Said only if it is still so after a silence."""
        self._doing = what

    def warm_start(self, step: int, num_steps: int, loss: float) -> None:
        """How far the warm start is: what ``ensure_model`` calls."""
        self.doing(f"warm start {step}/{num_steps}, loss {loss:.3f}")

    def say(self, line: str) -> None:
        with self._lock:
            print(line, file=self._stream, flush=True)
            self._said, self._patience_s = self._clock(), self._quiet_s

    def tick(self) -> None:
        """Say what goes on, and since when this process does it, where the silence has lasted long enough."""
        with self._lock:
            now = self._clock()
            if now - self._said < self._patience_s:
                return
            print(f"{format_duration(now - self._start)}  {self._doing}", file=self._stream, flush=True)
            self._said, self._patience_s = now, 2 * self._patience_s

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.tick()


class Progress:
    """Shows step, phase, share of useful groups, pass rates and ETA. A context manager.

    In a terminal one line is kept up to date; elsewhere every ``every_steps``-th step, and each one with an
    evaluation, is a plain line without control codes, and a long silence is broken by the phase. The ETA is the pace
    since the first step reported, so that neither the start of the actors nor the steps before a resume count.
    """

    def __init__(
        self,
        num_steps: int,
        *,
        every_steps: int = 1,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps = num_steps
        self._num_done: int | None = None
        self._every_steps = every_steps
        self._stream = stream if stream is not None else sys.stdout
        self._clock = clock
        self._plain = PlainLines("starting", stream=self._stream, clock=clock)
        self._start = clock()
        self._first: tuple[int, float] | None = None
        self._values: dict[str, float] = {}
        self._live: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        self._start = self._clock()
        # Asked of the stream itself: rich would also take FORCE_COLOR in the environment for a terminal.
        if self._stream.isatty():
            self._live = RichProgress(
                TextColumn("[bold]step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[summary]}"),
                TextColumn("[cyan]{task.fields[phase]}"),
                console=Console(file=self._stream),
                refresh_per_second=4,
            )
            self._task = self._live.add_task("run", total=self._num_steps, summary="", phase="starting")
            self._live.start()
        else:
            self._plain.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        else:
            self._plain.__exit__(kind, error, traceback)

    def phase(self, name: str) -> None:
        """The run is now in this phase. Without a terminal shown where it lasts."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, phase=name)
        elif self._num_done is None:
            self._plain.doing(name)
        else:
            self._plain.doing(f"{name}, {self._num_done} of {self._num_steps} steps done")

    def warm_start(self, step: int, num_steps: int, loss: float) -> None:
        """How far the warm start is: what ``ensure_model`` calls."""
        self.phase(f"warm start {step}/{num_steps}, loss {loss:.3f}")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """``step`` steps are done; ``metrics`` are the line of that step."""
        self._num_done = step
        self._values |= {name: metrics[name] for name, _ in _SHOWN if name in metrics}
        eta = self._eta(step)
        if self._live is not None and self._task is not None:
            parts = [f"{label} {self._values[name]:.3f}" for name, label in _SHOWN if name in self._values]
            self._live.update(self._task, completed=step, summary="  ".join([*parts, f"ETA {eta}"]))
        elif step % self._every_steps == 0 or step == self._num_steps or VAL_PASS_1 in metrics:
            parts = [f"{label} {metrics[name]:.3f}" for name, label in _SHOWN if name in metrics]
            parts.append(f"ETA {eta}" if step < self._num_steps else f"done in {eta}")
            self._plain.say(f"step {step}/{self._num_steps}  " + "  ".join(parts))

    def _eta(self, step: int) -> str:
        """Remaining time; after the last step what the whole run took in this process."""
        now = self._clock()
        if step >= self._num_steps:
            return format_duration(now - self._start)
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        made = step - first_step
        return format_duration((now - first_time) / made * (self._num_steps - step)) if made > 0 else "-"


class NamedLines:
    """One run of several: a plain line, begun with the run's name, at every evaluation."""

    def __init__(self, name: str, num_steps: int, stream: TextIO | None = None) -> None:
        self._name = name
        self._num_steps = num_steps
        self._stream = stream if stream is not None else sys.stdout

    def phase(self, name: str) -> None:
        """Not shown."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if VAL_PASS_1 in metrics or step == self._num_steps:
            parts = [f"{label} {metrics[name]:.3f}" for name, label in _SHOWN if name in metrics]
            print(f"{self._name}: step {step}/{self._num_steps}  {'  '.join(parts)}", file=self._stream, flush=True)
