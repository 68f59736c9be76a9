import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gps_ray.base.errors import RolloutError
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.rollout.sandbox import SandboxedTask
from gps_ray.tasks.interface import Verdict

PROMPT = Prompt(prompt_id="p", text="2 + 2", answer="4", task="own")


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
            raise ValueError(response)
        if response == "work":
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
        if response == "pid":
            return float(os.getpid()), RolloutStatus.WRONG
        return (1.0, RolloutStatus.RIGHT) if response == prompt.answer else (0.0, RolloutStatus.WRONG)


class TaskThatCannotBeLoaded(OwnTask):
    def __setstate__(self, state: object) -> None:
        raise ImportError("no such library")

    def __getstate__(self) -> object:
        return {"any": 1}


@pytest.fixture(scope="module")
def task() -> Iterator[SandboxedTask]:
    task = SandboxedTask(OwnTask(), deadline_s=1.0, memory_bytes=128 << 20)
    yield task
    task.close()


def test_verdicts_pass_through_and_the_child_stays(task: SandboxedTask) -> None:
    assert task.name == "own"
    assert task.verify(PROMPT, "4") == (1.0, RolloutStatus.RIGHT)
    assert task.verify(PROMPT, "5") == (0.0, RolloutStatus.WRONG)
    child, _ = task.verify(PROMPT, "pid")
    assert child != os.getpid()
    assert task.verify(PROMPT, "pid")[0] == child


@pytest.mark.parametrize("response", ["hang", "hang in C", "allocate", "exit", "quit", "raise"])
def test_a_verifier_that_goes_wrong_costs_one_response(task: SandboxedTask, response: str) -> None:
    child = int(task.verify(PROMPT, "pid")[0])
    start = time.monotonic()
    assert task.verify(PROMPT, response) == (0.0, RolloutStatus.FAILED)
    assert time.monotonic() - start < 10
    if response.startswith("hang"):
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    assert task.verify(PROMPT, "4") == (1.0, RolloutStatus.RIGHT)


def test_the_childs_cpu_seconds_are_charged_once(task: SandboxedTask) -> None:
    task.take_cpu_s()
    task.verify(PROMPT, "work")
    assert 0.05 <= task.take_cpu_s() < 0.5
    assert task.take_cpu_s() == 0


def test_a_task_that_cannot_start_says_so() -> None:
    task = SandboxedTask(TaskThatCannotBeLoaded(), deadline_s=1.0, memory_bytes=1 << 30)
    with pytest.raises(RolloutError, match=r"data\.task"):
        task.verify(PROMPT, "4")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")
def test_a_killed_worker_leaves_no_verifier_behind(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys\n"
        "from gps_ray.rollout.sandbox import SandboxedTask\n"
        "from tests.unit.rollout.test_sandbox import PROMPT, OwnTask\n"
        "if __name__ == '__main__':\n"
        "    task = SandboxedTask(OwnTask(), deadline_s=60.0, memory_bytes=1 << 30)\n"
        "    print(int(task.verify(PROMPT, 'pid')[0]), flush=True)\n"
        "    task.verify(PROMPT, 'hang in C')\n"
    )
    root = Path(__file__).parents[3]
    worker = subprocess.Popen([sys.executable, script], env={"PYTHONPATH": str(root)}, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and Path(f"/proc/{child}").exists() and _state(child) != "Z":
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists() or _state(child) == "Z"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
