"""Two processes of one gloo group, as two train workers that share a model are. They serve one test after the other: to
start them costs more than most of what they do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed

from tests.processes import spawn_process

__all__ = ["two_ranks"]

DEADLINE = timedelta(seconds=180)


def _in_group(rank: int, meeting: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=DEADLINE
    )
    try:
        return function(*arguments)
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def two_ranks() -> Iterator[Callable[..., list[Any]]]:
    """``run(function, *arguments)`` in both at once, in a group of their own; what each returned, by rank."""
    with spawn_process() as first, spawn_process() as second:

        def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            with tempfile.TemporaryDirectory() as folder:
                calls = [
                    process.submit(_in_group, rank, Path(folder) / "meeting", function, arguments)
                    for rank, process in enumerate((first, second))
                ]
                # The other one waits for a rank that has failed.
                done, _ = wait(calls, return_when=FIRST_EXCEPTION)
                for call in done:
                    call.result()
                return [call.result() for call in calls]

        yield run
