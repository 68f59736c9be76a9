"""Watching a run: a live display in a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from gps_ray.run.metrics import TRAIN_PASS_RATE, USEFUL_RATIO, VAL_PASS_1

__all__ = ["NamedLines", "Progress", "format_duration"]

_SHOWN = ((USEFUL_RATIO, "useful"), (TRAIN_PASS_RATE, "train pass rate"), (VAL_PASS_1, "pass@1"))


def format_duration(seconds: float) -> str:
    """``75`` -> ``1:15``, ``3700`` -> ``1:01:40``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class Progress:
    """Shows step, phase, share of useful groups, pass rates and ETA. A context manager.

    In a terminal one line is kept up to date; elsewhere every ``every_steps``-th step, and each one with an
    evaluation, is a plain line without control codes. The ETA is the pace since the first step reported, so that
    neither the start of the actors nor the steps before a resume count.
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
        self._every_steps = every_steps
        self._stream = stream if stream is not None else sys.stdout
        self._clock = clock
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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, name: str) -> None:
        """The run is now in this phase. Shown in a terminal only."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, phase=name)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """``step`` steps are done; ``metrics`` are the line of that step."""
        self._values |= {name: metrics[name] for name, _ in _SHOWN if name in metrics}
        eta = self._eta(step)
        if self._live is not None and self._task is not None:
            parts = [f"{label} {self._values[name]:.3f}" for name, label in _SHOWN if name in self._values]
            self._live.update(self._task, completed=step, summary="  ".join([*parts, f"ETA {eta}"]))
        elif step % self._every_steps == 0 or step == self._num_steps or VAL_PASS_1 in metrics:
            parts = [f"{label} {metrics[name]:.3f}" for name, label in _SHOWN if name in metrics]
            parts.append(f"ETA {eta}" if step < self._num_steps else f"done in {eta}")
            print(f"step {step}/{self._num_steps}  " + "  ".join(parts), file=self._stream, flush=True)

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
