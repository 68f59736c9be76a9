import json
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
from gps_ray.config import RolloutConfig
from gps_ray.rollout.verifier_pool import Judgement, VerifierPool
from tests.unit.rollout.own_task import LookingTask, OwnTask

pytestmark = pytest.mark.ray

PROMPT = Prompt(prompt_id="p", text="2 + 2", answer="4", task="own")


class TaskThatCannotBeLoaded(OwnTask):
    def __setstate__(self, state: object) -> None:
        raise ImportError("no such library")

    def __getstate__(self) -> object:
        return {"any": 1}


def make_pool(num_verifiers: int = 1, deadline_s: float = 4.0) -> VerifierPool:
    config = RolloutConfig(
        num_verifiers=num_verifiers, verify_deadline_s=deadline_s, verify_memory_bytes=128 << 20, start_deadline_s=60
    )
    return VerifierPool(OwnTask(), config)


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    pool = make_pool()
    yield pool
    pool.close()


def judge(pool: VerifierPool, *responses: str) -> list[Judgement]:
    return pool.judge([(PROMPT, response) for response in responses])


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if _state(pid) == "Z":
            return True
        time.sleep(0.02)
    return False


def test_verdicts_pass_through_and_the_process_stays(pool: VerifierPool) -> None:
    right, wrong, first, second = judge(pool, "4", "print", "pid", "pid")
    assert (right.reward, right.status, right.reason) == (1.0, RolloutStatus.RIGHT, "")
    assert (wrong.reward, wrong.status) == (0.0, RolloutStatus.WRONG)
    assert first.reward == second.reward != os.getpid()


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("hang", "no verdict within rollout.verify_deadline_s=4 s"),
        ("hang in C", "no verdict within"),
        ("allocate", "MemoryError"),
        ("exit", "ended its process (exit code 3)"),
        ("quit", "SystemExit"),
        ("raise", "ValueError: no verdict !!!"),
        ("none", "expected a verdict (reward, status), got None"),
        ("string", "expected a verdict (reward, status), got 'right'"),
        ("nan", "expected a finite reward of at most 1e+09, got nan"),
        ("large", "expected a finite reward of at most 1e+09, got 1e+30"),
        ("status", "7 is not a valid RolloutStatus"),
    ],
)
def test_a_verifier_that_goes_wrong_costs_one_response(pool: VerifierPool, response: str, reason: str) -> None:
    (child,) = judge(pool, "pid")
    before, failed, after = judge(pool, "4", response, "4")
    assert failed.status == RolloutStatus.FAILED
    assert reason in failed.reason
    assert len(failed.reason) <= 300
    assert "\n" not in failed.reason
    assert before.status == after.status == RolloutStatus.RIGHT
    if response.startswith("hang"):
        assert is_gone(int(child.reward))


def test_what_a_verifier_forks_ends_with_it() -> None:
    pool = make_pool()
    many = judge(pool, *["fork"] * 20)
    # One that leaves a process behind at every response is replaced before they fill the machine.
    assert is_gone(int(many[0].reward))
    (last,) = judge(pool, "fork")
    pool.close()
    assert is_gone(int(last.reward))


def test_responses_are_judged_side_by_side() -> None:
    pool = make_pool(num_verifiers=2)
    first, second = judge(pool, "slow pid", "slow pid")
    assert first.reward != second.reward
    pool.close()


def test_a_verifier_that_never_answers_does_not_use_up_the_chunk() -> None:
    pool = make_pool(deadline_s=0.05)
    judged = judge(pool, *["hang"] * 50)
    pool.close()
    assert {judgement.status for judgement in judged} == {RolloutStatus.FAILED}
    assert "not tried" in judged[-1].reason
    assert "verify_deadline_s" in judged[-1].reason


def test_a_broken_verifier_is_tried_once_per_chunk_until_it_comes_to_a_verdict() -> None:
    """A chunk may be a single group, which is smaller than what shows that it is broken."""
    pool = make_pool(deadline_s=60)

    def num_not_tried(*responses: str) -> int:
        return sum("not tried" in judgement.reason for judgement in judge(pool, *responses))

    assert num_not_tried(*["exit"] * 5) == 0
    assert num_not_tried(*["exit"] * 5) == 2
    assert num_not_tried(*["exit"] * 5) == 4
    assert num_not_tried("right", "exit", "exit") == 0
    pool.close()


def test_the_processes_cpu_seconds_are_charged_once(pool: VerifierPool) -> None:
    pool.take_cpu_s()
    judge(pool, "work")
    assert pool.take_cpu_s() >= 0.05
    assert pool.take_cpu_s() == 0


def test_a_verifier_is_given_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in its environment nor by a descriptor or its working directory; SECURITY.md says what is left."""
    token, file = os.environ["RAY_AUTH_TOKEN"], tmp_path / "auth_token"
    file.write_text(token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with file.open() as opened:
        os.set_inheritable(opened.fileno(), True)
        config = RolloutConfig(num_verifiers=1, verify_memory_bytes=128 << 20, start_deadline_s=60)
        pool = VerifierPool(LookingTask(tmp_path / "seen.json"), config)
        try:
            judge(pool, "anything")
        finally:
            pool.close()
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert "PATH" in seen["environment"]
    assert not [name for name, value in seen["environment"].items() if token in value or str(file) in value]
    assert seen["opened"]
    assert str(file) not in seen["opened"]
    assert not [
        path for path in seen["here"] if Path(path).is_file() and token in Path(path).read_text(errors="ignore")
    ]


def test_a_task_that_cannot_start_says_what_the_import_said() -> None:
    pool = VerifierPool(TaskThatCannotBeLoaded(), RolloutConfig())
    with pytest.raises(RolloutError, match=r"ImportError: no such library; check that data\.task"):
        judge(pool, "4")
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")
def test_a_killed_worker_leaves_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "from tests.ray.test_verifier_pool import judge, make_pool\n"
        "pool = make_pool(deadline_s=60.0)\n"
        "print(*[int(judged.reward) for judged in judge(pool, 'pid', 'fork')], flush=True)\n"
        "judge(pool, 'hang in C')\n"
    )
    root = Path(__file__).parents[2]
    worker = subprocess.Popen([sys.executable, script], env={"PYTHONPATH": str(root)}, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    pids = [int(pid) for pid in worker.stdout.readline().split()]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
