"""Verdicts from processes that can be killed: the one road from a response to its reward.

A response is hostile text and a verifier is other people's code. One that hangs, allocates without bound or ends its
process costs one FAILED response, with the reason, and not the run. What a verifier prints goes nowhere; the text of
its exception travels back. Tasks that bound their own work by construction say so (``bounds_its_own_work``) and run in
the worker itself: a message to another process would cost the toy more than its verdict.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from gps_ray.base.environment import clean_environment
from gps_ray.base.errors import GpsRayError, RolloutError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import RolloutConfig
from gps_ray.rollout.verifier_process import checked_verdict, reason_of, stated_answer
from gps_ray.tasks.interface import Task, bounds_its_own_work

__all__ = ["Judgement", "VerifierNotes", "VerifierPool"]

# So many processes lost in a row, with no verdict between, and of a chunk no more than the first responses are tried:
# the verifier is broken, and the run should say so before the chunk's own deadline does.
MAX_LOST_IN_A_ROW = 8
MAX_KEPT_NOTES = 20
# Awaitables have deadlines of their own within a process; one that blocks its loop is ended after so much more.
_GRACE_S = 5.0
# Kills the sessions named on its input when the input ends, that is when the worker is gone, however it went. One that
# was ended meanwhile is named again, negative: its number may be somebody else's by then. It is no child of the worker:
# Ray kills those with a worker that ends, and what verifiers forked would stay.
_KEEPER = """
import os, sys
if os.fork():
    os._exit(0)
groups = set()
for line in sys.stdin:
    number = int(line)
    groups.add(number) if number > 0 else groups.discard(-number)
for group in groups:
    try:
        os.killpg(group, 9)
    except OSError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one response; ``reason`` says why where there is no verdict. ``answer`` is what it states, where
    that was asked: "" for nothing, None where the task does not say (``tasks.interface.StatesAnswers``)."""

    reward: float
    status: RolloutStatus
    reason: str = ""
    answer: str | None = None

    @classmethod
    def failed(cls, reason: str) -> Judgement:
        return cls(0.0, RolloutStatus.FAILED, reason, "")


@dataclass(slots=True)
class VerifierNotes:
    """What verifiers said beside their verdicts (``Task.take_notes``): how much, and the first of it (JSON values)."""

    count: int = 0
    kept: list[Any] = field(default_factory=list)

    def add(self, notes: Sequence[Any]) -> None:
        self.count += len(notes)
        self.kept += notes[: MAX_KEPT_NOTES - len(self.kept)]


class VerifierPool:
    """Judges responses in ``num_processes`` processes, or in this one where the task bounds its own work.

    Processes are started at the first response, kept, and replaced after a response that broke a limit. Several threads
    may judge at a time: they share the processes, and one without any waits for the first that is free. ``task`` must
    be picklable (its class or function at the top of an importable module).
    """

    def __init__(self, task: Task, config: RolloutConfig, num_processes: int | None = None) -> None:
        self._task, self._config = task, config
        self._is_local = bounds_its_own_work(task)
        self._size = config.num_verifiers if num_processes is None else num_processes
        self._processes: list[_Process] = []
        self._taken: set[_Process] = set()  # those that some thread has
        self._changed = threading.Condition(threading.RLock())
        self._keeper: subprocess.Popen[bytes] | None = None
        self._cpu_s = 0.0
        self._notes = VerifierNotes()
        self._num_lost = 0  # processes, with no verdict between

    def judge(self, items: Sequence[tuple[Prompt, str]], with_answers: bool = False) -> list[Judgement]:
        """One judgement per (prompt, response), in their order; ``with_answers`` with what each response states.

        Raises RolloutError where a process cannot be started at all; DataError where a task that runs here cannot read
        the prompt's own answer.
        """
        if self._is_local:
            with self._changed:  # tasks need not stand two threads
                return [self._judge_here(*item, with_answers) for item in items]
        size = min(getattr(self._task, "batch_size", 1), -(-len(items) // self._size) or 1)
        waiting = deque(range(begin, min(begin + size, len(items))) for begin in range(0, len(items), size))
        judged: list[Judgement | None] = [None] * len(items)
        busy: dict[Any, tuple[_Process, range]] = {}
        loss_here = ""
        while waiting or busy:
            if loss_here and self._num_lost >= MAX_LOST_IN_A_ROW:
                for rows in waiting:
                    for row in rows:
                        judged[row] = Judgement.failed(
                            f"not tried: {self._num_lost} in a row before it were lost: {loss_here}"
                        )
                waiting.clear()
            while waiting and (process := self._take(may_wait=not busy)) is not None:
                rows = waiting.popleft()
                process.ask([items[row] for row in rows], with_answers, self._config.verify_deadline_s)
                busy[process.connection] = process, rows
            first = min((process.deadline for process, _ in busy.values()), default=0.0)
            ready = set(wait(list(busy), timeout=max(first - time.monotonic(), 0.0)))
            for connection, (process, rows) in list(busy.items()):
                if connection not in ready and time.monotonic() < process.deadline:
                    continue
                del busy[connection]
                answers, loss = self._collect(process, connection in ready, len(rows))
                self._give_back(process)
                if loss and len(rows) > 1:
                    # One of the batch did that. Alone, the others have their verdicts.
                    waiting.extendleft(range(row, row + 1) for row in reversed(rows))
                    continue
                for row, answer in zip(rows, answers, strict=True):
                    judged[row] = answer
                loss_here = loss
                with self._changed:
                    self._num_lost = self._num_lost + 1 if loss else 0
        return [answer for answer in judged if answer is not None]

    def take_cpu_s(self) -> float:
        """CPU seconds of the verdicts since the last call that were spent outside of this process."""
        with self._changed:
            taken, self._cpu_s = self._cpu_s, 0.0
        return taken

    def take_notes(self) -> VerifierNotes:
        """What the verifiers said since the last call."""
        with self._changed:
            taken, self._notes = self._notes, VerifierNotes()
        return taken

    def close(self) -> None:
        """End the processes and all that they started. The next response starts others."""
        for process in list(self._processes):
            self._drop(process)
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper = None

    def _judge_here(self, prompt: Prompt, response: str, with_answers: bool) -> Judgement:
        try:
            reward, status = checked_verdict(self._task.verify(prompt, response))
            return Judgement(reward, status, "", stated_answer(self._task, prompt, response) if with_answers else None)
        except GpsRayError:
            raise
        except Exception as error:
            return Judgement.failed(reason_of(error))

    def _take(self, may_wait: bool) -> _Process | None:
        """A process that is alive and nobody else's, started here if there may be one more. Where all are taken: the
        first that is given back, or None for who may not wait."""
        with self._changed:
            while True:
                for process in [process for process in self._processes if process not in self._taken]:
                    if process.is_alive():
                        self._taken.add(process)
                        return process
                    self._drop(process)
                if len(self._processes) < self._size:
                    self._taken.add(process := self._start())
                    return process
                if not may_wait:
                    return None
                self._changed.wait()

    def _give_back(self, process: _Process) -> None:
        with self._changed:
            self._taken.discard(process)
            self._changed.notify()

    def _start(self) -> _Process:
        if self._keeper is None:
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", "-c", _KEEPER], stdin=subprocess.PIPE, start_new_session=True
            )
            self._keeper.wait()  # it has forked, and goes on by itself
        process = _Process(self._task, self._config)
        self._processes.append(process)
        self._tell_keeper(process.pid)
        try:
            process.wait_ready(self._config.start_deadline_s)
        except RolloutError:
            self._drop(process)
            raise
        return process

    def _collect(self, process: _Process, is_ready: bool, count: int) -> tuple[list[Judgement], str]:
        """The answers, and why the process was lost, if it was."""
        if is_ready:
            with contextlib.suppress(EOFError, OSError):
                message = json.loads(process.connection.recv_bytes())
                with self._changed:
                    self._cpu_s += message["cpu_s"]
                    self._notes.add(message["notes"])
                if message["is_spent"]:
                    self._drop(process)
                return [
                    Judgement(reward, RolloutStatus(status), why, answer)
                    for reward, status, why, answer in message["answers"]
                ], ""
            loss = f"the verifier ended its process ({process.exit_text()})"
        else:
            loss = f"no verdict within rollout.verify_deadline_s={self._config.verify_deadline_s:g} s"
        self._drop(process)
        return [Judgement.failed(loss)] * count, loss

    def _drop(self, process: _Process) -> None:
        with self._changed:
            process.kill()
            self._processes.remove(process)
            self._tell_keeper(-process.pid)

    def _tell_keeper(self, number: int) -> None:
        assert self._keeper is not None
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(b"%d\n" % number)
        self._keeper.stdin.flush()


class _Process:
    """One verifying process at the head of a session of its own."""

    def __init__(self, task: Task, config: RolloutConfig) -> None:
        self._name = task.name
        self._grace_s = _GRACE_S if getattr(task, "is_async", False) else 0.0
        try:
            self._task = pickle.dumps(task)
        except Exception as error:
            raise RolloutError(
                f"task {task.name!r} cannot be pickled into the process: {reason_of(error)}; put its class "
                "at the top of the module that data.task names"
            ) from error
        self.connection, theirs = Pipe()
        self.deadline = 0.0
        arguments = [str(theirs.fileno()), str(config.verify_memory_bytes), str(os.getpid())]
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "gps_ray.rollout.verifier_process", *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # A verifier that prints at every response would drown the run's own lines.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**clean_environment(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self.pid = self._popen.pid

    def wait_ready(self, deadline_s: float) -> None:
        """Raises RolloutError, naming what the import said, where it does not come up."""
        why = f"not within rollout.start_deadline_s={deadline_s:g} s"
        try:
            self.connection.send({"path": sys.path, "task": self._task})
            if self.connection.poll(deadline_s):
                why = json.loads(self.connection.recv_bytes()).get("error", "")
        except (EOFError, OSError):
            why = f"it ended while importing ({self.exit_text()})"
        if why:
            raise RolloutError(
                f"the process that verifies task {self._name!r} did not start: {why}; check that data.task can be "
                "imported and pickled where the rollout workers run, or raise rollout.start_deadline_s"
            )

    def ask(self, items: Sequence[tuple[Prompt, str]], with_answers: bool, deadline_s: float) -> None:
        self.deadline = time.monotonic() + deadline_s + self._grace_s
        # A process that ended meanwhile is found when its answer is read.
        with contextlib.suppress(OSError):
            self.connection.send((items, with_answers, deadline_s))

    def is_alive(self) -> bool:
        # An idle process has nothing to say: a readable connection is one that ended.
        return not self.connection.poll() and self._popen.poll() is None

    def exit_text(self) -> str:
        """How it ended, once its end of the connection is closed."""
        try:
            code = self._popen.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def kill(self) -> None:
        """End it and all that it started."""
        self.connection.close()
        with contextlib.suppress(OSError):  # it is gone, and so is its group
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
