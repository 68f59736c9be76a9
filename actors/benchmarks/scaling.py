"""``jobs.bench scaling``: groups per second through driver and selector with 1 to 64 simulated rollout workers.

Workers share at most eight processes and sleep instead of computing, so that what is left is our own: cutting and
dispatching chunks, moving tables by reference, observing and selecting. ``ideal_share`` is the rate over that of
workers who never wait; where it falls off, driver or selector saturate. A step selects as many groups as keep every
worker busy for two chunks.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.cluster import cluster_for
from actors.rollout_pool import RayRolloutPool, RayWorker
from actors.rollout_worker import RolloutWorker, WorkerSpec
from actors.selector_actor import spawn_selector
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import Chunk, GenerateRequest, Prompt, PublishedWeights, Sampling, SelectionRequest
from gps_ray.config import ClusterConfig, RolloutConfig, SelectionConfig, TrainConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.selection.registry import resolve_selection
from gps_ray.weights.object_store import ObjectStorePayload

__all__ = ["add_arguments", "run"]

GROUP_SIZE = 8
DIM = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--processes", type=int, default=8, help="processes that the workers share, at most")
    parser.add_argument("--chunk-s", type=float, default=0.5, help="seconds a worker sleeps per chunk")
    parser.add_argument("--prompts-per-chunk", type=int, default=4)
    parser.add_argument("--num-prompts", type=int, default=40_000, help="size of the pool")
    parser.add_argument("--num-steps", type=int, default=6)
    parser.add_argument("--selector", default="gps_fused")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per number of workers; figures are medians over steps, the first left out."""
    prompts = [
        Prompt(prompt_id=f"p{i}", text=f"prompt {i % 997} of {i}", answer="right", task="simulated", level="")
        for i in range(args.num_prompts)
    ]
    vectors = generator(0, "bench/scaling").normal(size=(len(prompts), DIM)).astype(np.float32)
    table = PromptTable(
        prompt_ids=tuple(prompt.prompt_id for prompt in prompts),
        texts=tuple(prompt.text for prompt in prompts),
        embeddings=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        num_pool=len(prompts),
    )
    config = TrainConfig(cluster=ClusterConfig(local_dashboard=False), rollout=RolloutConfig(num_workers=1))
    with tempfile.TemporaryDirectory() as scratch, cluster_for(config):
        rows = [asyncio.run(_case(args, num, prompts, table, Path(scratch) / str(num))) for num in args.workers]
    return {"benchmark": "scaling", "selector": args.selector, "num_prompts": args.num_prompts, "rows": rows}


class _SharedPool(RayRolloutPool):
    """A pool whose workers live in a few processes, a thread each."""

    def __init__(self, num_processes: int, *args: Any) -> None:
        self._num_processes = num_processes
        self._shared: dict[int, Any] = {}
        super().__init__(*args)

    def _spawn(self, index: int, number: int) -> RayWorker:
        place = index % self._num_processes
        if place not in self._shared:
            per_process = -(-self._spec.rollout.num_workers // self._num_processes)
            options = {"num_cpus": 0, "max_concurrency": per_process}
            self._shared[place] = ray.remote(RolloutWorker).options(**options).remote(self._spec)
        return RayWorker(index, self._shared[place], self._spec.rollout)

    def close(self) -> None:
        for worker in self._shared.values():
            ray.kill(worker)


async def _case(
    args: argparse.Namespace, num_workers: int, prompts: list[Prompt], table: PromptTable, scratch: Path
) -> dict[str, Any]:
    rollout = RolloutConfig.model_validate(
        {
            "engine": "simulated",
            "num_workers": num_workers,
            "group_size": GROUP_SIZE,
            "prompts_per_chunk": args.prompts_per_chunk,
            "simulated": {"latency_s": args.chunk_s},
        }
    )
    spec = WorkerSpec(rollout=rollout, model_directory=None, dtype="float32", task="countdown", run_seed=0)
    num_groups = 2 * num_workers * args.prompts_per_chunk
    selection = resolve_selection(SelectionConfig(selector=args.selector, num_prompts=num_groups))
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    pool = _SharedPool(min(args.processes, num_workers), f"scaling-{num_workers}", spec, by_id)
    selector = spawn_selector(f"scaling-{num_workers}/selector", selection, table, GROUP_SIZE, 0, scratch)
    steps, busy = [], []
    try:
        await pool.start()
        await pool.load_weights(PublishedWeights(policy_version=0, payload=ray.put(ObjectStorePayload(arrays={}))))
        for step in range(1, args.num_steps + 1):
            start = time.perf_counter()
            request = SelectionRequest(
                step=step,
                round=0,
                num_prompts=num_groups,
                group_size=GROUP_SIZE,
                excluded=frozenset(),
                num_missing=num_groups,
            )
            chosen = await selector.select(request)
            selected = time.perf_counter()
            chunks = await _generate(pool, step, chosen.prompt_ids)
            rolled_out = time.perf_counter()
            await selector.observe(step, chunks, [chosen])
            end = time.perf_counter()
            steps.append(end - start)
            busy.append((end - rolled_out) + (selected - start))
    finally:
        pool.close()
        selector.close()
    step_s, selector_s = float(np.median(steps[1:])), float(np.median(busy[1:]))
    ideal_s = 2 * args.chunk_s
    return {
        "workers": num_workers,
        "groups_per_step": num_groups,
        "groups_per_s": num_groups / step_s,
        "ideal_share": ideal_s / step_s,
        "rollout_ideal_share": ideal_s / (step_s - selector_s),
        "selector_ms": 1e3 * selector_s,
        "selector_share": selector_s / step_s,
        "step_s_each": steps,
    }


async def _generate(pool: RayRolloutPool, step: int, prompt_ids: tuple[str, ...]) -> list[Chunk]:
    request = GenerateRequest(
        step=step,
        stream="rollout",
        prompt_ids=prompt_ids,
        num_rollouts=np.full(len(prompt_ids), GROUP_SIZE, dtype=np.int32),
        policy_version=0,
        sampling=Sampling(temperature=1.0, max_response_tokens=8),
    )
    chunks = [chunk async for chunk in pool.generate(request)]
    return sorted(chunks, key=lambda chunk: chunk.header.chunk_id)
