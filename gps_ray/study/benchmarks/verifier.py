"""What verdicts cost: a verifier of so much CPU time per response, in pools of several sizes."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from gps_ray.base.types import Prompt
from gps_ray.config import RolloutConfig
from gps_ray.rollout.verifier_pool import VerifierPool
from gps_ray.tasks.registry import load_task

__all__ = ["add_arguments", "run", "works"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--responses", type=int, default=128, help="responses of one step")
    parser.add_argument("--cpu-ms", type=float, default=50.0, help="CPU milliseconds of one verdict")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="sizes of the pool")


def works(response: str, *, cpu_s: float) -> bool:
    """A verifier that computes for so long."""
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass
    return bool(response)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rows by pool size: wall seconds, CPU-seconds, and how much longer that is than the verdicts themselves would take
    on as many cores of their own. Processes are started before the clock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = [_row(size, args.responses, args.cpu_ms / 1e3, cores) for size in args.processes]
    return {"cores": cores, "load": os.getloadavg()[0], "rows": rows}


def _row(size: int, num_responses: int, cpu_s: float, cores: int) -> dict[str, Any]:
    prompt = Prompt(prompt_id="p", text="?", answer="", task="bench")
    task = load_task("gps_ray.study.benchmarks.verifier:works", {"cpu_s": cpu_s})
    pool = VerifierPool(task, RolloutConfig(verify_deadline_s=60.0), num_processes=size)
    try:
        pool.judge([(prompt, "start")] * size)
        pool.take_cpu_s()
        begin = time.perf_counter()
        pool.judge([(prompt, "response")] * num_responses)
        wall_s, spent_s = time.perf_counter() - begin, pool.take_cpu_s()
    finally:
        pool.close()
    alone_s = num_responses * cpu_s / min(size, cores)
    return {
        "processes": size,
        "cores": cores,
        "responses": num_responses,
        "wall_s": wall_s,
        "cpu_s": spent_s,
        "verdicts_alone_s": alone_s,
        "ratio": wall_s / alone_s,
    }
