"""``jobs.bench rollout``: one engine in this process against transformers (``gps_ray.study.benchmarks.rollout``), or,
with ``--num-workers``, a pool of k rollout workers against k bare engines.

Both are k processes with an engine each (vLLM: the same) and make the same responses with the same seeds, by turns.
The bare engines are handed their share beforehand (vLLM: all of it at once) and give back a count; the pool dispatches
chunk by chunk (vLLM: group by group, as places become free), scores the responses and puts outcomes and rollouts into
the object store. What it loses is what the pool costs. Where responses are of very different lengths, who dispatches as
places become free may gain more than that: bare engines have what they were dealt.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from actors.cluster import cluster_for
from actors.deadlines import within
from actors.rollout_pool import RayRolloutPool
from actors.rollout_worker import ContinuousRolloutWorker, WorkerSpec
from gps_ray.base.errors import ConfigError
from gps_ray.base.types import GenerateRequest, Prompt, Sampling
from gps_ray.config import ClusterConfig, RolloutConfig, TrainConfig, VllmConfig
from gps_ray.rollout.chunk import ChunkRequest, build_engine, cut_chunks
from gps_ray.rollout.engine import EngineRequest, RolloutEngine
from gps_ray.study.benchmarks import rollout as in_process

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    in_process.add_arguments(parser)
    parser.add_argument("--engine", choices=["torch", "vllm"], default="torch", help="vllm: needs --num-workers")
    parser.add_argument("--num-workers", type=int, default=0, help="k; 0 compares with transformers in this process")
    parser.add_argument("--prompts-per-chunk", type=int, default=16, help="with --num-workers and torch")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="with vllm: responses of an engine at a time")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per arm and number of sequences; ``ratio`` is tokens/s over those of the bare engines."""
    if args.num_workers == 0:
        if args.engine != "torch":
            raise ConfigError(f"--engine: {args.engine} is compared as a pool; set --num-workers")
        return in_process.run(args)
    in_process.check_sequences(args)
    with in_process.model_folder(args) as directory:
        rollout = RolloutConfig(
            engine=args.engine,
            num_workers=args.num_workers,
            group_size=args.group_size,
            prompts_per_chunk=args.prompts_per_chunk,
            max_response_tokens=args.response_tokens,
            num_threads=args.num_threads,
            vllm=VllmConfig(max_num_seqs=args.max_num_seqs),
        )
        with cluster_for(TrainConfig(rollout=rollout, cluster=ClusterConfig(local_dashboard=False))):
            spec = WorkerSpec(
                rollout=rollout, model_directory=directory, dtype=args.dtype, task="countdown", run_seed=0
            )
            rows = asyncio.run(_compare(args, spec))
    return {
        "benchmark": "rollout",
        "engine": args.engine,
        "num_workers": args.num_workers,
        "prompts_per_chunk": args.prompts_per_chunk,
        "max_num_seqs": args.max_num_seqs,
        "dtype": args.dtype,
        "group_size": args.group_size,
        "max_response_tokens": args.response_tokens,
        "num_threads": args.num_threads,
        "repeats": args.repeats,
        "num_cpus": os.cpu_count(),
        "rows": rows,
    }


class BareEngine:
    """An engine in a process of its own, with nothing around it."""

    def __init__(self, spec: WorkerSpec) -> None:
        import torch

        torch.set_num_threads(spec.rollout.num_threads)
        self._spec = spec
        self._engine = build_engine(spec.rollout, spec.model_directory, spec.dtype)

    def run_bare(self, chunks: list[ChunkRequest]) -> tuple[int, float]:
        """(tokens, CPU-seconds)."""
        return _generated(self._engine, self._spec, chunks)


class _WorkerAndEngine(ContinuousRolloutWorker):
    """A worker of the pool whose engine can be had bare, while the pool has nothing to do."""

    async def run_bare(self, chunks: list[ChunkRequest]) -> tuple[int, float]:
        return await asyncio.wrap_future(self._runner.on_engine(lambda engine: _generated(engine, self._spec, chunks)))


class _Pool(RayRolloutPool):
    continuous_worker = _WorkerAndEngine


def _generated(engine: RolloutEngine, spec: WorkerSpec, chunks: list[ChunkRequest]) -> tuple[int, float]:
    start, num_tokens = time.process_time(), 0
    for chunk in chunks:
        request = EngineRequest(
            run_seed=spec.run_seed,
            stream=chunk.stream,
            step=chunk.step,
            prompts=chunk.prompts,
            num_rollouts=chunk.num_rollouts,
            sampling=chunk.sampling,
        )
        groups = engine.generate(request)
        num_tokens += sum(len(response.tokens) for group in groups for response in group.responses)
    return num_tokens, time.process_time() - start


async def _compare(args: argparse.Namespace, spec: WorkerSpec) -> list[dict[str, Any]]:
    num_prompts = max(args.num_sequences) // args.group_size
    prompts = {prompt.prompt_id: prompt for prompt in in_process.bench_prompts(num_prompts)}
    pool = _Pool("bench", spec, prompts)
    bare = [actor for actor, _ in pool.actors().values()]
    if not spec.rollout.batches_continuously:
        bare = [ray.remote(BareEngine).options(num_cpus=0).remote(spec) for _ in range(args.num_workers)]
    try:
        await pool.start()
        await pool.serve_model_directory()
        return [row for num in args.num_sequences for row in await _case(args, spec, prompts, num, bare, pool)]
    finally:
        pool.close()


async def _case(
    args: argparse.Namespace,
    spec: WorkerSpec,
    prompts: dict[str, Prompt],
    num_sequences: int,
    bare: list[Any],
    pool: RayRolloutPool,
) -> list[dict[str, Any]]:
    num_prompts = num_sequences // args.group_size
    speeds: dict[str, list[tuple[float, float]]] = {"bare engines": [], "pool": []}
    lengths: list[float] = []
    for turn in range(args.repeats + 1):
        request = GenerateRequest(
            step=turn,
            stream="bench",
            prompt_ids=tuple(prompts)[:num_prompts],
            num_rollouts=np.full(num_prompts, args.group_size, dtype=np.int32),
            policy_version=0,
            sampling=Sampling(temperature=1.0, max_response_tokens=args.response_tokens),
        )
        for name, measured in (
            ("bare engines", await _bare_turn(bare, _shares(request, prompts, spec.rollout), spec)),
            ("pool", await _pool_turn(pool, request, lengths)),
        ):
            # The first turn warms up, uncounted.
            if turn:
                speeds[name].append(measured)
    columns = in_process.speed_columns(speeds, "bare engines")
    bare_row = {"arm": f"{args.num_workers} bare engines", **columns["bare engines"]}
    pool_row = {"arm": f"pool of {args.num_workers}", **columns["pool"]}
    pool_row |= {f"group_tokens_{share}%": float(np.percentile(lengths, share)) for share in (10, 50, 90)}
    return [{"num_sequences": num_sequences, **row} for row in (bare_row, pool_row)]


def _shares(request: GenerateRequest, prompts: dict[str, Prompt], rollout: RolloutConfig) -> list[list[ChunkRequest]]:
    """What each bare engine is given: every k-th chunk, or where it batches by itself every k-th prompt, at once."""
    num = rollout.num_workers
    if not rollout.batches_continuously:
        chunks = cut_chunks(request, prompts, rollout.prompts_per_chunk)
        return [chunks[i::num] for i in range(num)]
    parts = [
        replace(request, prompt_ids=request.prompt_ids[i::num], num_rollouts=request.num_rollouts[i::num])
        for i in range(num)
    ]
    return [cut_chunks(part, prompts, max(len(part.prompt_ids), 1)) for part in parts]


async def _bare_turn(bare: list[Any], shares: list[list[ChunkRequest]], spec: WorkerSpec) -> tuple[float, float]:
    """Tokens per second and per CPU-second."""
    start = time.perf_counter()
    # The first turn also waits for the engines to come up.
    deadline_s = spec.rollout.start_deadline_s + spec.rollout.chunk_deadline_s
    calls = [engine.run_bare.remote(share) for engine, share in zip(bare, shares, strict=True)]
    done = [await within(deadline_s, call, "a bare engine", "rollout.start_deadline_s") for call in calls]
    seconds = time.perf_counter() - start
    num_tokens = sum(num for num, _ in done)
    return num_tokens / seconds, num_tokens / sum(cpu_s for _, cpu_s in done)


async def _pool_turn(pool: RayRolloutPool, request: GenerateRequest, lengths: list[float]) -> tuple[float, float]:
    """The same; adds the mean length of each group's responses to ``lengths``."""
    start = time.perf_counter()
    headers = [chunk.header async for chunk in pool.generate(request)]
    seconds = time.perf_counter() - start
    num_tokens = sum(int(header.num_response_tokens.sum()) for header in headers)
    lengths += [tokens / request.num_rollouts[0] for header in headers for tokens in header.num_response_tokens]
    return num_tokens / seconds, num_tokens / sum(header.cpu_s for header in headers)
