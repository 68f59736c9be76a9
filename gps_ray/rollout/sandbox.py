"""Verifiers of the user's own, in a process that can be killed.

A response is hostile text. A verifier that hangs on it, or allocates without bound, must cost one FAILED response and
not the run. The tasks that come with gps-ray bound their own work and are called directly.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.interface import Task, Verdict

__all__ = ["SandboxedTask"]

_PR_SET_PDEATHSIG = 1


class SandboxedTask:
    """A ``Task`` that verifies in a child process under a time and a memory limit.

    The child is started at the first response, kept, and replaced after a response that broke a limit; the verdict on
    that response is FAILED. ``task`` must be picklable (a class at the top of an importable module).
    """

    def __init__(self, task: Task, *, deadline_s: float, memory_bytes: int, start_deadline_s: float = 60.0) -> None:
        self.name = task.name
        self._task = task
        self._deadline_s = deadline_s
        self._memory_bytes = memory_bytes
        self._start_deadline_s = start_deadline_s
        self._connection: Connection | None = None
        self._cpu_s = 0.0

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """The task's own verdict; FAILED where it raised, ran out of time or memory, or its process ended.

        Raises RolloutError where the child cannot be started at all.
        """
        connection = self._connection or self._start()
        try:
            connection.send((prompt, response))
            if connection.poll(self._deadline_s):
                answer = json.loads(connection.recv_bytes())
                self._cpu_s += answer["cpu_s"]
                return float(answer["reward"]), RolloutStatus(answer["status"])
        except (EOFError, OSError):
            # The child is gone: killed for its memory, or ended by the verifier itself.
            pass
        self.close()
        return 0.0, RolloutStatus.FAILED

    def take_cpu_s(self) -> float:
        """CPU seconds of the verdicts since the last call (they are spent outside of this process)."""
        taken, self._cpu_s = self._cpu_s, 0.0
        return taken

    def close(self) -> None:
        """End the child. The next response starts another."""
        if self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process.close()
            self._connection = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._task, theirs, self._memory_bytes, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()
        self._connection = ours
        try:
            is_ready = ours.poll(self._start_deadline_s) and ours.recv_bytes() == b"ready"
        except (EOFError, OSError):
            is_ready = False
        if not is_ready:
            self.close()
            raise RolloutError(
                f"the process that verifies task {self.name!r} did not start within {self._start_deadline_s:g} s; "
                "check that data.task can be imported and pickled, or raise rollout.start_deadline_s"
            )
        return ours


def _serve(task: Task, connection: Connection, memory_bytes: int, parent: int) -> None:
    """The child's whole life: one verdict per request, until the parent closes the connection."""
    _die_with(parent)
    _limit_memory(memory_bytes)
    connection.send_bytes(b"ready")
    while True:
        try:
            prompt, response = connection.recv()
        except EOFError:
            return
        start = time.process_time()
        try:
            reward, status = task.verify(prompt, response)
            answer = {"reward": float(reward), "status": int(RolloutStatus(status))}
        # Any of them is the verifier's failure, MemoryError included; SystemExit would end the child quietly.
        except BaseException:
            answer = {"reward": 0.0, "status": int(RolloutStatus.FAILED)}
        answer["cpu_s"] = time.process_time() - start
        # JSON, not pickle: what comes out of this process has been near hostile text.
        connection.send_bytes(json.dumps(answer).encode())


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
