"""``jobs.bench weights``: seconds from the learner's parameters to engines that serve them, by model size.

    publish   parameters -> numpy copies -> one object in the store, with the log-probs of the probe text
    load      every worker of the pool takes it from the store, replaces its parameters in place and passes the probe

Everything is what a run does in its ``timing_s/weights``, on one node; the learner is played by an actor that holds a
Llama of random weights and changes it between turns, so that a load that did nothing would fail its probe.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.cluster import cluster_for
from actors.deadlines import within
from actors.rollout_pool import RayRolloutPool
from actors.rollout_worker import WorkerSpec
from gps_ray.config import ClusterConfig, EmbeddedModelConfig, RolloutConfig, TrainConfig
from gps_ray.errors import ConfigError
from gps_ray.keyed_random import generator
from gps_ray.model import load_model, make_embedded_model, weights_of
from gps_ray.tasks.countdown import Countdown
from gps_ray.types import PublishedWeights

__all__ = ["add_arguments", "run"]

HEAD_DIM = 64
NUM_PROBE_TOKENS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", nargs="+", default=["128x3", "512x8", "1024x12"], help="models as hidden size x layers"
    )
    parser.add_argument("--engines", nargs="+", choices=["torch", "vllm"], default=["torch"])
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="turns; the figures are medians")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per size and engine."""
    shapes = [_shape(size) for size in args.sizes]
    rollout = RolloutConfig(num_workers=args.num_workers)
    # Two versions of the largest model at a time.
    store_bytes = max(256 << 20, max(3 * 4 * 16 * hidden**2 * layers for hidden, layers in shapes))
    cluster = ClusterConfig(object_store_memory_bytes=store_bytes, local_dashboard=False)
    config = TrainConfig(rollout=rollout, cluster=cluster)
    with tempfile.TemporaryDirectory() as scratch, cluster_for(config):
        rows = [
            asyncio.run(_case(args, engine, Path(scratch) / f"{hidden}x{layers}", hidden, layers))
            for hidden, layers in shapes
            for engine in args.engines
        ]
    return {
        "benchmark": "weights",
        "transport": "object store",
        "num_workers": args.num_workers,
        "repeats": args.repeats,
        "num_cpus": os.cpu_count(),
        "rows": rows,
    }


def _shape(size: str) -> tuple[int, int]:
    hidden, _, layers = size.partition("x")
    if not (hidden.isdecimal() and layers.isdecimal()) or int(hidden) % HEAD_DIM or not int(hidden) * int(layers):
        raise ConfigError(f"--sizes: expected HIDDENxLAYERS with a hidden size in steps of {HEAD_DIM}, got {size!r}")
    return int(hidden), int(layers)


class Publisher:
    """What a learner does to publish."""

    def __init__(self, directory: Path) -> None:
        import torch

        torch.set_num_threads(1)
        self._model = load_model(directory)

    def num_parameters(self) -> int:
        return int(self._model.num_parameters())

    def publish(self, policy_version: int) -> tuple[PublishedWeights, Any]:
        """To be called with ``num_returns=2``, as a learner's ``publish``."""
        import torch

        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.mul_(1.01)
            vocabulary = self._model.config.vocab_size
            tokens = generator(0, "bench/weights").integers(0, vocabulary, NUM_PROBE_TOKENS).astype(np.int32)
            rows = torch.from_numpy(tokens.astype(np.int64))[None]
            logprobs = self._model(rows[:, :-1]).logits[0].log_softmax(-1).gather(1, rows[0, 1:, None])[:, 0]
        header = PublishedWeights(
            policy_version=policy_version, weights=None, probe_tokens=tokens, probe_logprobs=logprobs.numpy()
        )
        return header, weights_of(self._model)


async def _case(args: argparse.Namespace, engine: str, directory: Path, hidden: int, layers: int) -> dict[str, Any]:
    if not directory.exists():
        shape = EmbeddedModelConfig(
            hidden_size=hidden, num_layers=layers, num_heads=hidden // HEAD_DIM, intermediate_size=3 * hidden
        )
        make_embedded_model(shape, Countdown().vocabulary(), directory)
    rollout = RolloutConfig(engine=engine, num_workers=args.num_workers)
    spec = WorkerSpec(rollout=rollout, model_directory=directory, dtype="float32", task="countdown", run_seed=0)
    publisher = ray.remote(Publisher).options(num_cpus=0).remote(directory)
    pool = RayRolloutPool(f"bench-{engine}-{directory.name}", spec, {})
    seconds: dict[str, list[float]] = {"publish": [], "load": []}
    try:
        await pool.start()
        deadline_s, key = rollout.start_deadline_s, "rollout.start_deadline_s"
        num_parameters = await within(deadline_s, publisher.num_parameters.remote(), "the publisher", key)
        for version in range(args.repeats + 1):
            start = time.perf_counter()
            header, weights = publisher.publish.options(num_returns=2).remote(version)
            published = await within(deadline_s, header, "the publisher", key)
            publish_s = time.perf_counter() - start
            start = time.perf_counter()
            await pool.load_weights(replace(published, weights=weights))
            # The first turn warms up, uncounted.
            if version:
                seconds["publish"].append(publish_s)
                seconds["load"].append(time.perf_counter() - start)
    finally:
        pool.close()
        ray.kill(publisher)
    total = np.add(seconds["publish"], seconds["load"])
    return {
        "model": directory.name,
        "num_parameters": num_parameters,
        "megabytes": round(num_parameters * 4 / 1e6, 1),
        "engine": engine,
        "publish_s": round(float(np.median(seconds["publish"])), 4),
        "load_s": round(float(np.median(seconds["load"])), 4),
        "total_s": round(float(np.median(total)), 4),
        "publish_s_by_turn": [round(value, 4) for value in seconds["publish"]],
        "load_s_by_turn": [round(value, 4) for value in seconds["load"]],
    }
