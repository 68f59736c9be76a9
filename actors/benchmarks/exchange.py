"""``jobs.bench exchange``: a table of rollouts from the worker that made it to the actor that learns from it.

    put     the worker's result lies in the object store (serialised once, into shared memory)
    get     another process has the table: Arrow buffers that point into shared memory
    read    every rollout of it as numpy views, grouped by prompt, as the learner reads it

``bytes_copied`` is what Arrow allocated in the reader during get and read; ``zero_copy`` says that token ids and
log-probs came as read-only views that own no data.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from actors.cluster import cluster_for
from gps_ray.base.keyed_random import generator
from gps_ray.base.tables import ROLLOUTS, groups_from_table
from gps_ray.config import ClusterConfig, RolloutConfig, TrainConfig

__all__ = ["add_arguments", "rollout_table", "run"]

_PROMPT_TOKENS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="rollouts per table")
    parser.add_argument("--response-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5, help="turns; the figures are medians")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per table size."""
    largest = rollout_table(max(args.rows), args.response_tokens).nbytes
    cluster = ClusterConfig(object_store_memory_bytes=max(256 << 20, 4 * largest), local_dashboard=False)
    with cluster_for(TrainConfig(cluster=cluster, rollout=RolloutConfig(num_workers=1))):
        maker, reader = ray.remote(_Maker).remote(), ray.remote(_Reader).remote()
        try:
            rows = [_case(maker, reader, num_rows, args) for num_rows in args.rows]
        finally:
            ray.kill(maker)
            ray.kill(reader)
    return {"benchmark": "exchange", "response_tokens": args.response_tokens, "rows": rows}


def rollout_table(num_rows: int, response_tokens: int) -> pa.Table:
    """ROLLOUTS with so many rows, eight per prompt."""
    rng = generator(0, "bench/exchange")

    def ragged(width: int, values: Any) -> pa.ListArray:
        return pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1, dtype=np.int32) * width), pa.array(values))

    num_tokens = num_rows * response_tokens
    columns = {
        "prompt_id": pa.array([f"prompt-{row // 8}" for row in range(num_rows)]),
        "prompt_tokens": ragged(_PROMPT_TOKENS, rng.integers(32_000, size=num_rows * _PROMPT_TOKENS, dtype=np.int32)),
        "response_tokens": ragged(response_tokens, rng.integers(32_000, size=num_tokens, dtype=np.int32)),
        "sampled_logprobs": ragged(response_tokens, -rng.random(num_tokens, dtype=np.float32)),
        "reward": pa.array(rng.random(num_rows, dtype=np.float32)),
        "status": pa.array(np.zeros(num_rows, dtype=np.int8)),
        "finish_reason": pa.array(np.zeros(num_rows, dtype=np.int8)),
        "policy_version": pa.array(np.zeros(num_rows, dtype=np.int32)),
    }
    return pa.table(columns, schema=ROLLOUTS)


class _Maker:
    """Plays the rollout worker: its table is made beforehand, so that only the way into the store is timed."""

    def prepare(self, num_rows: int, response_tokens: int) -> int:
        self._table = rollout_table(num_rows, response_tokens)
        return int(self._table.nbytes)

    def put(self) -> tuple[float, Any]:
        start = time.perf_counter()
        reference = ray.put(self._table)
        return time.perf_counter() - start, [reference]


class _Reader:
    """Plays the learner."""

    def read(self, references: list[Any]) -> dict[str, Any]:
        allocated = pa.total_allocated_bytes()
        start = time.perf_counter()
        table = ray.get(references[0])
        got = time.perf_counter()
        groups = groups_from_table(table)
        read = time.perf_counter()
        arrays = [
            array
            for rollouts in groups.values()
            for rollout in rollouts
            for array in (rollout.response_tokens, rollout.sampled_logprobs)
        ]
        return {
            "get_s": got - start,
            "read_s": read - got,
            "num_rows": sum(map(len, groups.values())),
            "bytes_copied": pa.total_allocated_bytes() - allocated,
            "zero_copy": not any(array.flags.owndata or array.flags.writeable for array in arrays),
        }


def _case(maker: Any, reader: Any, num_rows: int, args: argparse.Namespace) -> dict[str, Any]:
    num_bytes = ray.get(maker.prepare.remote(num_rows, args.response_tokens), timeout=300)
    turns = []
    for _ in range(args.repeats):
        put_s, references = ray.get(maker.put.remote(), timeout=300)
        turns.append({"put_s": put_s, **ray.get(reader.read.remote(references), timeout=300)})
        del references
    middle = {name: float(np.median([turn[name] for turn in turns])) for name in ("put_s", "get_s", "read_s")}
    return {
        "rows": num_rows,
        "mib": round(num_bytes / 2**20, 1),
        "put_gb_per_s": num_bytes / middle["put_s"] / 1e9,
        "get_ms": 1e3 * middle["get_s"],
        "read_rows_per_s": num_rows / middle["read_s"],
        "bytes_copied": max(turn["bytes_copied"] for turn in turns),
        "zero_copy": all(turn["zero_copy"] for turn in turns),
        "turns": turns,
    }
