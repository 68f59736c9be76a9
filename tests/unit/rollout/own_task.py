"""A user's verifier with every way to go wrong, at the top of an importable module."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.interface import Verdict


class OwnTask:
    """A user's verifier with every way to go wrong."""

    name = "own"

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        if response == "hang":
            while True:
                pass
        if response == "hang in C":
            9**9**8
        if response == "allocate":
            hoard = []
            while True:
                hoard.append(bytearray(1 << 20))
        if response == "exit":
            os._exit(3)
        if response == "quit":
            sys.exit()
        if response == "raise":
            raise ValueError("no\nverdict " + "!" * 10_000)
        if response == "print":
            print("!" * (1 << 20))
        if response == "fork":
            child = subprocess.Popen(["sleep", "600"])
            return float(child.pid), RolloutStatus.WRONG
        nonsense = {"none": None, "string": "right", "nan": (float("nan"), 0), "large": (1e30, 1), "status": (1.0, 7)}
        if response in nonsense:
            return nonsense[response]  # type: ignore[return-value]
        if response == "slow pid":
            time.sleep(0.3)
            return float(os.getpid()), RolloutStatus.WRONG
        if response == "work":
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
        if response == "pid":
            return float(os.getpid()), RolloutStatus.WRONG
        return (1.0, RolloutStatus.RIGHT) if response == prompt.answer else (0.0, RolloutStatus.WRONG)


class PatientTask:
    """Comes to a verdict on the response "wait" once there is a file at ``path``, on others at once."""

    name = "patient"

    def __init__(self, path: Path) -> None:
        self._path = path

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        while response == "wait" and not self._path.exists():
            time.sleep(0.01)
        return 1.0, RolloutStatus.RIGHT


class ObedientTask:
    """Somebody's, that behaves as it is told."""

    name = "own"

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        if self.behaviour == "exits":
            os._exit(0)
        if self.behaviour == "raises" or (self.behaviour == "raises on nothing" and not response):
            raise NameError("undefined_name")
        right = {"always right": True, "always wrong": False}.get(self.behaviour, prompt.answer in response)
        return float(right), RolloutStatus(right)


class LookingTask:
    """Writes down at ``path`` what its process was given: environment, open files, files of the working directory."""

    name = "looking"

    def __init__(self, path: Path) -> None:
        self.path = path

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        opened = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the listing's own
                opened.append(os.readlink(descriptor))
        here = [str(path.absolute()) for path in Path.cwd().iterdir()]
        self.path.write_text(json.dumps({"environment": dict(os.environ), "opened": opened, "here": here}))
        return 1.0, RolloutStatus.RIGHT
