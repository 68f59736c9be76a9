"""The process that runs somebody's verifier: ``python -m gps_ray.rollout.verifier_process FD MEMORY_BYTES PARENT``.

Started by ``gps_ray.rollout.verifier_pool`` as the head of a session of its own, so that whatever it forks can be
killed with it. Messages in are pickles of the parent's; messages out are JSON: what leaves this process has been near
hostile text.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import inspect
import json
import math
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gps_ray.base.types import Prompt, RolloutStatus

__all__ = ["MAX_REASON_LENGTH", "MAX_REWARD", "checked_verdict", "reason_of", "stated_answer"]

MAX_REASON_LENGTH = 300
MAX_ANSWER_LENGTH = 200
# Advantages square rewards in float32.
MAX_REWARD = 1e9
# A verifier may keep helpers, but one that leaves a process behind at every response must not fill the machine.
MAX_CHILDREN = 16
_PR_SET_PDEATHSIG = 1


def reason_of(error: BaseException) -> str:
    """Type and message on one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")[:MAX_REASON_LENGTH]


def checked_verdict(verdict: Any) -> tuple[float, RolloutStatus]:
    """A verdict as it must be. Raises ValueError or TypeError for anything but a usable reward and a status."""
    if not isinstance(verdict, tuple | list) or len(verdict) != 2:
        raise TypeError(f"expected a verdict (reward, status), got {verdict!r:.80}")
    reward, status = float(verdict[0]), RolloutStatus(verdict[1])
    if not (math.isfinite(reward) and abs(reward) <= MAX_REWARD):
        raise ValueError(f"expected a finite reward of at most {MAX_REWARD:g}, got {reward:g}")
    return reward, status


def stated_answer(task: Any, prompt: Prompt, response: str) -> str | None:
    """What the response says the answer is: "" for nothing, None where the task does not say. A longer one than a vote
    needs is shortened to a hash. Raises TypeError for anything but text."""
    extract = getattr(task, "stated_answer", None)
    if extract is None:
        return None
    answer = extract(prompt, response)
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"expected stated_answer to give text or None, got {answer!r:.80}")
    if answer is not None and len(answer) > MAX_ANSWER_LENGTH:
        return hashlib.sha256(answer.encode(errors="surrogatepass")).hexdigest()
    return answer


def _answers(
    task: Any, items: Sequence[tuple[Prompt, str]], with_answers: bool, deadline_s: float, runner: asyncio.Runner
) -> list[tuple[float, int, str, str | None]]:
    """(reward, status, reason, stated answer) for each item; a batch that fails as a whole is tried again one by one.

    What a verifier gives to be awaited is awaited side by side, each for at most ``deadline_s``. A task whose
    ``stated_answer`` raises has come to no verdict either.
    """
    made = _together(task, items, deadline_s, runner)
    if made is None:
        made = [_tried(task.verify, item) for item in items]
    if any(inspect.isawaitable(verdict) for verdict in made):
        made = runner.run(_awaited(made, deadline_s))
    return [
        _answer(verdict, partial(stated_answer, task, *item) if with_answers else lambda: None)
        for verdict, item in zip(made, items, strict=True)
    ]


def _together(
    task: Any, items: Sequence[tuple[Prompt, str]], deadline_s: float, runner: asyncio.Runner
) -> list[Any] | None:
    """What ``verify_batch`` makes of several items; None where there is none, or it fails: which response it was is
    found one by one."""
    verify_batch = getattr(task, "verify_batch", None)
    if verify_batch is None or len(items) < 2:
        return None
    made = _tried(verify_batch, ([prompt for prompt, _ in items], [response for _, response in items]))
    if inspect.isawaitable(made):
        made = runner.run(_awaited([made], deadline_s))[0]
    made = _tried(list, (made,))
    return made if isinstance(made, list) and len(made) == len(items) else None


def _tried(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What it gives or raises. Any of them is the verifier's failure, MemoryError included; SystemExit would end this
    process quietly."""
    try:
        return function(*arguments)
    except BaseException as error:
        return error


async def _awaited(made: Sequence[Any], deadline_s: float) -> list[Any]:
    async def one(verdict: Any) -> Any:
        if not inspect.isawaitable(verdict):
            return verdict
        try:
            return await asyncio.wait_for(_guarded(verdict), deadline_s)
        except TimeoutError:
            return TimeoutError(f"no verdict within rollout.verify_deadline_s={deadline_s:g} s")

    return list(await asyncio.gather(*(one(verdict) for verdict in made)))


async def _guarded(verdict: Any) -> Any:
    try:
        return await verdict
    except asyncio.CancelledError:
        raise
    # Within the task that awaits it: SystemExit would leave the loop, and the others with it.
    except BaseException as error:
        return error


def _answer(verdict: Any, stated: Callable[[], str | None]) -> tuple[float, int, str, str | None]:
    try:
        if isinstance(verdict, BaseException):
            raise verdict
        reward, status = checked_verdict(verdict)
        return reward, int(status), "" if status != RolloutStatus.FAILED else "the verifier said FAILED", stated()
    except BaseException as error:
        return 0.0, int(RolloutStatus.FAILED), reason_of(error), ""


def _serve(connection: Connection, memory_bytes: int) -> None:
    """The whole life: one answer per message, until the parent closes the connection."""
    start = connection.recv()
    sys.path[:] = start["path"]
    try:
        task = pickle.loads(start["task"])  # noqa: S301, from the parent
    except BaseException as error:
        connection.send_bytes(json.dumps({"error": reason_of(error)}).encode())
        return
    _limit_memory(memory_bytes)
    connection.send_bytes(b"{}")
    # One loop for the whole life: what an async verifier keeps open (a session, a pool) belongs to it.
    with asyncio.Runner() as runner:
        while True:
            try:
                items, with_answers, deadline_s = connection.recv()
            except EOFError:
                return
            begin = _cpu_s()
            answers = _answers(task, items, with_answers, deadline_s, runner)
            message = {
                "answers": answers,
                "cpu_s": _cpu_s() - begin,
                "is_spent": _num_children() > MAX_CHILDREN,
                "notes": _notes(task),
            }
            connection.send_bytes(json.dumps(message).encode())


def _notes(task: Any) -> list[Any]:
    """What the task has to say beside its verdicts; nothing that it does there costs a verdict."""
    take_notes = getattr(task, "take_notes", None)
    try:
        return [] if take_notes is None else json.loads(json.dumps(list(take_notes())))
    except Exception as error:
        return [{"error": f"take_notes: {reason_of(error)}"}]


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _num_children() -> int:
    count = 0
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # that thread has just ended
            count += len(file.read_text().split())
    return count


def _die_with(parent: int) -> None:
    """Be killed when the parent is, even in the middle of a verdict that never ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def _limit_memory(memory_bytes: int) -> None:
    """Allow that much address space beyond what the imports took, where that can be told (Linux)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        in_use = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (in_use + memory_bytes, hard))


if __name__ == "__main__":
    _die_with(int(sys.argv[3]))
    _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
