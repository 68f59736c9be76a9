"""Starting and ending real jobs and Ray heads in tests. Everything is ended by its own pid, and bound to loopback."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

__all__ = [
    "ROOT",
    "SMALL_RUN",
    "Head",
    "end",
    "free_port",
    "job_command",
    "job_environment",
    "join_environment",
    "kill_tree",
    "process_tree",
    "ray_head",
    "run_job",
    "run_small_in_process",
    "spawn_process",
    "start_job",
    "wait_for",
]

ROOT = Path(__file__).parents[1]

# What one test has warm-started or embedded the others of the same pytest run find, in all its processes.
_SHARED = Path(tempfile.gettempdir()) / f"gps-ray-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"

# A real run made small: real model, real warm start, real RL, in seconds instead of minutes.
SMALL_RUN = (
    f"warm_start.cache_directory={_SHARED / 'warm'}",
    f"selection.features.cache_directory={_SHARED / 'features'}",
    "data.countdown.num_pool_prompts=200",
    "data.countdown.num_evaluation_prompts=16",
    "data.countdown.num_heldout_probe_prompts=40",
    "warm_start.num_examples=2000",
    "warm_start.num_steps=80",
    "warm_start.batch_size=64",
    "warm_start.num_threads=1",
    "learning.num_threads=1",
    "selection.num_prompts=8",
    # Each is a process that imports torch and transformers: two only where two are what is tested.
    "rollout.num_workers=1",
    "rollout.prompts_per_chunk=2",
    "evaluation.num_probe_prompts=40",
    "evaluation.rollouts_per_prompt=2",
    "evaluation.probe_rollouts=4",
    "cluster.local_dashboard=false",
)


def wait_for(what: str, condition: Callable[[], Any], deadline_s: float = 180) -> Any:
    """The first true value of ``condition``; fails the test after the deadline, saying what it waited for."""
    end_at = time.monotonic() + deadline_s
    while time.monotonic() < end_at:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {deadline_s:g} s for {what}")


def job_command(job: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"jobs.{job}", *arguments]


def job_environment() -> dict[str, str]:
    # The test's own Ray settings must not leak into a job that starts its own cluster.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # Ray Train looks every 2 s whether a worker has ended. The user's own token file is no test's business.
    token = {"RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
    return inherited | token | {"OMP_NUM_THREADS": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


def join_environment(address: str) -> dict[str, str]:
    """For a job that is to join a cluster of this process's token."""
    return job_environment() | {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": address}


def start_job(
    job: str, *arguments: str, log: Path, head: Head | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The job in a process of its own: on the head, in an ``environment``, or else on a Ray of its own."""
    if environment is None:
        environment = job_environment() if head is None else head.environment
    with log.open("ab") as file:
        return subprocess.Popen(
            job_command(job, *arguments), cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )


def run_job(
    job: str, *arguments: str, head: Head | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """``start_job`` to its end."""
    return _run(job_command(job, *arguments), timeout_s, job_environment() if head is None else head.environment)


def run_small_in_process(arguments: Sequence[str]) -> None:
    """The run of a job whose warm start is there already, in this process: what the job's own run has to equal."""
    from actors.training import prepare
    from actors.warm_start_trainer import find_model
    from gps_ray.config import TrainConfig, load_config
    from gps_ray.loop.in_process import run_in_process

    config, data = prepare(load_config(TrainConfig, None, arguments))
    folder = find_model(config)
    assert folder is not None
    run_in_process(config, data, folder)


def run_code(code: str, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, for what a test may not do to this one."""
    return _run([sys.executable, "-c", code, *arguments], timeout_s, job_environment())


def _run(command: list[str], timeout_s: float, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s)


def spawn_process() -> ProcessPoolExecutor:
    """A process that begins anew and takes one call after the other."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def end(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM, deadline_s: float = 60) -> None:
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    # Ray's workers take 10002-19999; the system's own range lies above.
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Head:
    """A Ray head that was started for tests, with this process's token. ``environment``: what a process joins it by."""

    address: str
    dashboard: str
    metrics_port: int
    token: str
    environment: dict[str, str]

    def get(self, path: str) -> Any:
        answer = requests.get(self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"}, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def ray(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return _run([str(Path(sys.executable).with_name("ray")), *arguments], timeout_s, self.environment)


@contextlib.contextmanager
def ray_head(
    directory: Path, num_cpus: int = 2, *, start: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Head]:
    """Start ``ray start --head --block`` as a child and end it and its children by their pids. ``start`` is another
    way to begin that command, ``environment`` another one to start it in."""
    token, port, dashboard_port, metrics_port = os.environ["RAY_AUTH_TOKEN"], free_port(), free_port(), free_port()
    if environment is None:  # a job's `python` is looked up on the PATH that the head was started with
        environment = job_environment()
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment = dict(environment) | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # Unix sockets have short names; pytest's folders do not.
        "RAY_TMPDIR": str(directory),
    }
    command = [*(start or (str(Path(sys.executable).with_name("ray")), "start", "--head")), "--block", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    command += [f"--metrics-export-port={metrics_port}", f"--num-cpus={num_cpus}", "--disable-usage-stats"]
    # Without a port of its own the agent of a second head on this machine stays mute, and no job can be submitted.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--object-store-memory={200 << 20}"]
    address = f"127.0.0.1:{port}"
    joining = environment | {"RAY_ADDRESS": address}
    head = Head(address, f"http://127.0.0.1:{dashboard_port}", metrics_port, token, joining)
    with (directory / "head.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for("the Ray head's dashboard", lambda: _answers(head))
        yield head
    finally:
        kill_tree(process)


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """At once: asked to end, a head waits half a minute for its own agents."""
    for pid in process_tree(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def process_tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        children = []
    return [pid, *(each for child in children for each in process_tree(int(child)))]


def _answers(head: Head) -> bool:
    try:
        head.get("/api/jobs/")
    except requests.RequestException:
        return False
    return True
