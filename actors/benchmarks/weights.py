"""``jobs.bench weights``: seconds from the learner's parameters to engines that serve them, by model size.

    publish   parameters -> numpy copies -> one object in the store, with the log-probs of the probe text
    load      every worker of the pool takes it from the store, replaces its parameters in place and passes the probe

In the rows of the object store everything is what a run does in its ``timing_s/weights``, on one node; the learner is
played by an actor that holds a Llama of random weights and changes it between turns, so that a load that did nothing
would fail its probe.

The rows of gloo are what a run does not do: Ray's direct transport (alpha) between actors of one collective group.

    publish   parameters -> copies that stay with the publisher, with the log-probs of the probe text
    load      every worker receives the copies as torch tensors, then loads and probes as above

Only members of the group can receive, and the group is fixed when it is made: a worker that is replaced is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.cluster import cluster_for
from actors.deadlines import within
from actors.rollout_pool import RayRolloutPool
from actors.rollout_worker import RolloutWorker, WorkerSpec
from gps_ray.base.errors import ConfigError, DeadlineError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import PublishedWeights
from gps_ray.config import ClusterConfig, EmbeddedModelConfig, RolloutConfig, TrainConfig
from gps_ray.model import load_model, make_embedded_model, weights_of
from gps_ray.tasks.countdown import Countdown
from gps_ray.weights.object_store import ObjectStorePayload

__all__ = ["add_arguments", "run"]

HEAD_DIM = 64
NUM_PROBE_TOKENS = 64
DEADLINE_KEY = "rollout.start_deadline_s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", nargs="+", default=["128x3", "512x8", "1024x12"], help="models as hidden size x layers"
    )
    parser.add_argument("--engines", nargs="+", choices=["torch", "vllm"], default=["torch"])
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="turns; the figures are medians")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per size and engine through the object store, and one per size over gloo (torch engine)."""
    shapes = [_shape(size) for size in args.sizes]
    rollout = RolloutConfig(num_workers=args.num_workers)
    # Two versions of the largest model at a time.
    store_bytes = max(256 << 20, max(3 * 4 * 16 * hidden**2 * layers for hidden, layers in shapes))
    cluster = ClusterConfig(object_store_memory_bytes=store_bytes, local_dashboard=False)
    config = TrainConfig(rollout=rollout, cluster=cluster)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, cluster_for(config):
        for hidden, layers in shapes:
            directory = _make_model(Path(scratch), hidden, layers)
            rows += [asyncio.run(_object_store_row(args, engine, directory)) for engine in args.engines]
            rows.append(asyncio.run(_gloo_row(args, directory)))
    return {
        "benchmark": "weights",
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

    def publish(self, policy_version: int) -> tuple[PublishedWeights, ObjectStorePayload]:
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
            policy_version=policy_version, payload=None, probe_tokens=tokens, probe_logprobs=logprobs.numpy()
        )
        return header, ObjectStorePayload(arrays=weights_of(self._model))


class GlooPublisher(Publisher):
    """Keeps what it publishes, for a direct transport to take from its memory."""

    def publish_tensors(self, policy_version: int) -> PublishedWeights:
        import torch

        header, payload = self.publish(policy_version)
        self._tensors = {name: torch.from_numpy(array) for name, array in payload.arrays.items()}
        return header

    def tensors(self) -> dict[str, Any]:
        """What was published last; to be called with ``tensor_transport="gloo"``."""
        return self._tensors


class GlooReceiver(RolloutWorker):
    """A rollout worker whose weights come as torch tensors."""

    def load_tensors(self, published: PublishedWeights, tensors: Mapping[str, Any]) -> None:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        self.load_weights(published, ObjectStorePayload(arrays=arrays))


def _make_model(scratch: Path, hidden: int, layers: int) -> Path:
    shape = EmbeddedModelConfig(
        hidden_size=hidden, num_layers=layers, num_heads=hidden // HEAD_DIM, intermediate_size=3 * hidden
    )
    directory = scratch / f"{hidden}x{layers}"
    if not directory.exists():
        make_embedded_model(shape, Countdown().vocabulary(), directory)
    return directory


def _spec(args: argparse.Namespace, engine: str, directory: Path) -> WorkerSpec:
    rollout = RolloutConfig(engine=engine, num_workers=args.num_workers)
    return WorkerSpec(rollout=rollout, model_directory=directory, dtype="float32", task="countdown", run_seed=0)


async def _object_store_row(args: argparse.Namespace, engine: str, directory: Path) -> dict[str, Any]:
    spec = _spec(args, engine, directory)
    deadline_s = spec.rollout.start_deadline_s
    publisher = ray.remote(Publisher).options(num_cpus=0).remote(directory)
    pool = RayRolloutPool(f"bench-{engine}-{directory.name}", spec, {})

    async def publish(version: int) -> PublishedWeights:
        header, payload = publisher.publish.options(num_returns=2).remote(version)
        published: PublishedWeights = await within(deadline_s, header, "the publisher", DEADLINE_KEY)
        return replace(published, payload=payload)

    try:
        await pool.start()
        num_parameters = await within(deadline_s, publisher.num_parameters.remote(), "the publisher", DEADLINE_KEY)
        seconds = await _turns(args.repeats, publish, pool.load_weights)
    finally:
        pool.close()
        ray.kill(publisher)
    return _row(directory.name, num_parameters, engine, "object store", seconds)


async def _gloo_row(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    from ray.experimental.collective import create_collective_group, destroy_collective_group

    spec = _spec(args, "torch", directory)
    deadline_s = spec.rollout.start_deadline_s
    # Senders and receivers alike: Ray then runs their methods beside a thread of its own that moves the tensors.
    remote = ray.remote(num_cpus=0, enable_tensor_transport=True)
    publisher, receiver = remote(GlooPublisher).remote(directory), remote(GlooReceiver)
    receivers = [receiver.remote(spec) for _ in range(args.num_workers)]

    async def publish(version: int) -> PublishedWeights:
        header = publisher.publish_tensors.remote(version)
        published: PublishedWeights = await within(deadline_s, header, "the publisher", DEADLINE_KEY)
        return published

    async def load(published: PublishedWeights) -> None:
        tensors = publisher.tensors.options(tensor_transport="gloo").remote()
        await _all(deadline_s, [each.load_tensors.remote(published, tensors) for each in receivers])

    try:
        await _all(deadline_s, [each.ready.remote() for each in receivers])
        num_parameters = await within(deadline_s, publisher.num_parameters.remote(), "the publisher", DEADLINE_KEY)
        group = await _blocking(deadline_s, lambda: create_collective_group([publisher, *receivers], backend="gloo"))
        seconds = await _turns(args.repeats, publish, load)
        await _blocking(deadline_s, lambda: destroy_collective_group(group))
    finally:
        for actor in (publisher, *receivers):
            ray.kill(actor)
    return _row(directory.name, num_parameters, "torch", "gloo", seconds)


async def _all(deadline_s: float, references: Sequence[Any]) -> None:
    await asyncio.gather(
        *(within(deadline_s, each, f"gloo receiver {i}", DEADLINE_KEY) for i, each in enumerate(references))
    )


async def _blocking(deadline_s: float, call: Callable[[], Any]) -> Any:
    """Ray's calls for collective groups wait without a deadline; the thread ends when their actors are killed."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(call), deadline_s)
    except TimeoutError as error:
        raise DeadlineError(
            f"the gloo group did not come up or end within {deadline_s:g} s; raise {DEADLINE_KEY} if it only needs time"
        ) from error


async def _turns(
    repeats: int,
    publish: Callable[[int], Awaitable[PublishedWeights]],
    load: Callable[[PublishedWeights], Awaitable[None]],
) -> dict[str, list[float]]:
    """Seconds of each turn; a first one warms up, uncounted."""
    seconds: dict[str, list[float]] = {"publish": [], "load": []}
    for version in range(repeats + 1):
        start = time.perf_counter()
        published = await publish(version)
        published_at = time.perf_counter()
        await load(published)
        if version:
            seconds["publish"].append(published_at - start)
            seconds["load"].append(time.perf_counter() - published_at)
    return seconds


def _row(
    model: str, num_parameters: int, engine: str, transport: str, seconds: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    total = np.add(seconds["publish"], seconds["load"])
    return {
        "model": model,
        "num_parameters": num_parameters,
        "megabytes": round(num_parameters * 4 / 1e6, 1),
        "engine": engine,
        "transport": transport,
        "publish_s": round(float(np.median(seconds["publish"])), 4),
        "load_s": round(float(np.median(seconds["load"])), 4),
        "total_s": round(float(np.median(total)), 4),
        "publish_s_by_turn": [round(value, 4) for value in seconds["publish"]],
        "load_s_by_turn": [round(value, 4) for value in seconds["load"]],
    }
