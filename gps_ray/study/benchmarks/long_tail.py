"""``jobs.bench long_tail``: how busy engines are where responses are of very different lengths.

The loop, the pool, its dispatcher and the selector of a real run, on a clock that jumps (``base.virtual_time``).
Engines are batching clocks and the learner sleeps, so that hours pass in a minute and nothing of this machine's speed
is in the figures. What is left out: messages, prefill and verdicts, which take no time here. Arms, side by side:

    all at once   every engine has all of its groups at the start, dealt by the tokens that each will really have, and
                  takes them in the order of the selection
    clairvoyant   the same, and each engine begins with the groups of the longest responses
    chunks        what the torch engine is given: prompts_per_chunk prompts, one chunk at a time
    groups        what vLLM is given, with a lag of 0 and of more

``share`` is the time that engines whose places are always all taken would need for the same tokens, over the time that
it took: of the rollout phases at lag 0 (the update comes between them), of whole steps with a lag (it overlaps). With a
lag of L the rollouts of a step have to end, and its update, before those of the step L + 1 later can begin: so a step
takes at least (all at once + update) / (L + 1). ``limit`` is the share at that, at most 1; at lag 0 it is that of all
at once.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from gps_ray.base.keyed_random import generator
from gps_ray.base.tables import outcomes_to_table
from gps_ray.base.types import (
    Chunk,
    ChunkHeader,
    GenerateRequest,
    GroupOutcome,
    IntArray,
    Prompt,
    PublishedWeights,
    UpdateRequest,
    UpdateResult,
)
from gps_ray.base.virtual_time import run_in_virtual_time
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.in_process import InProcessSelector
from gps_ray.loop.parts import LoopParts
from gps_ray.loop.plan import pool_fingerprint
from gps_ray.loop.training import TrainingLoop
from gps_ray.rollout.chunk import ChunkRequest
from gps_ray.rollout.group_runner import room_for
from gps_ray.rollout.pool import WorkerPool
from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.folder import RunFolder
from gps_ray.run.identity import Identity
from gps_ray.study.benchmarks.batching_clock import BatchingClock, DecodeCost, saturated_s
from gps_ray.tasks.dataset import DataSets

__all__ = ["Lengths", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--engines", type=int, nargs="+", default=[4, 32])
    add("--prompts", type=int, default=256, help="groups of a step")
    add("--group-size", type=int, default=8)
    add("--places", type=int, default=256, help="responses that an engine generates side by side")
    add("--prompts-per-chunk", type=int, default=16, help="of the arm with chunks")
    add("--mean-tokens", type=float, default=3280, help="of a response, after the cap")
    add("--cap", type=int, default=8192, help="tokens after which a response is cut off")
    add("--group-sigma", type=float, default=0.5, help="of the log of a prompt's length")
    add("--response-sigma", type=float, default=0.6, help="of the log of a response's length, given its prompt's")
    add("--prompt-tokens", type=int, default=0, help="context that every response begins with")
    add("--base-ms", type=float, default=5.8, help="of a decoding pass")
    add("--context-ns", type=float, default=22.0, help="of a pass, per token of context of all running responses")
    add("--extra-ms", type=float, default=1.5, help="of a pass")
    add("--floor-ms", type=float, nargs="+", default=[0.0], help="least of a pass; 16 without CUDA graphs")
    add("--load-s", type=float, default=1.0, help="seconds in which an engine loads weights")
    add("--update-share", type=float, default=0.6, help="of the groups' rollout phase at lag 0: what an update takes")
    add("--lags", type=int, nargs="+", default=[1], help="beside 0")
    add("--pool", type=int, default=512, help="prompts that the steps are chosen from")
    add("--steps", type=int, default=10, help="steps of each arm; the first --warm-up are not counted")
    add("--warm-up", type=int, default=4)
    add("--seed", type=int, default=0)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens: lognormal per prompt, and lognormal around that per response, cut at ``cap``. The same prompt
    has the same scale in every step."""

    mean: float
    cap: int
    group_sigma: float
    response_sigma: float
    seed: int

    @property
    def log_scale(self) -> float:
        """The log of the median before the cap, with which the mean after it is ``mean``."""
        return _log_scale(self.mean, self.cap, float(np.hypot(self.group_sigma, self.response_sigma)))

    def of(self, prompt_id: str, stream: str, step: int, num_rollouts: int) -> IntArray:
        """[num_rollouts] int64, at least one token each."""
        scale = self.group_sigma * generator(self.seed, "long_tail/prompt", prompt=prompt_id).standard_normal()
        draws = generator(self.seed, f"long_tail/{stream}", step, prompt_id).standard_normal(num_rollouts)
        lengths = np.exp(self.log_scale + scale + self.response_sigma * draws)
        tokens: IntArray = np.clip(np.rint(lengths), 1, self.cap).astype(np.int64)
        return tokens


@cache
def _log_scale(mean: float, cap: int, sigma: float) -> float:
    def excess(mu: float) -> float:
        z = (np.log(cap) - mu) / sigma
        below = np.exp(mu + sigma**2 / 2) * norm.cdf(z - sigma)
        return float(below + cap * norm.sf(z) - mean)

    return float(brentq(excess, 0.0, np.log(cap) + 5.0))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One row per arm, number of engines and floor of a pass."""
    rows = [row for floor in args.floor_ms for num in args.engines for row in _rows(args, num, floor)]
    parameters = {name: value for name, value in vars(args).items() if name not in ("benchmark", "out")}
    return {"benchmark": "long_tail", "parameters": parameters, "rows": rows}


def _rows(args: argparse.Namespace, num_engines: int, floor_ms: float) -> list[dict[str, Any]]:
    cost = DecodeCost(floor_ms / 1e3, args.base_ms / 1e3, args.context_ns / 1e9, args.extra_ms / 1e3)
    case = partial(_Case, args, num_engines, cost)
    groups = case(lag=0, in_chunks=False).run()
    update_s = args.update_share * groups.rollout_s
    arms = {"chunks, lag 0": case(lag=0, in_chunks=True).run(), "groups, lag 0": groups}
    for lag in args.lags:
        arms[f"groups, lag {lag}"] = case(lag=lag, in_chunks=False, update_s=update_s).run()
    # Of the same steps as every arm: what a step generates does not depend on who generates it when.
    once_s, clairvoyant_s = (
        run_in_virtual_time(_all_at_once(args, num_engines, cost, groups.counted, longest_first))
        for longest_first in (False, True)
    )
    rows: list[dict[str, Any]] = [
        {"arm": name, "seconds": seconds, "share": groups.saturated_s / seconds}
        for name, seconds in (("all at once", once_s), ("clairvoyant", clairvoyant_s))
    ]
    for name, timed in arms.items():
        lag = int(name.rpartition(" ")[2])
        seconds = timed.rollout_s if lag == 0 else timed.step_s
        limit_s = once_s if lag == 0 else max((once_s + update_s) / (lag + 1), update_s, groups.saturated_s)
        rows.append(
            {
                "arm": name,
                "seconds": seconds,
                "share": timed.saturated_s / seconds,
                "limit": min(1.0, timed.saturated_s / limit_s),
                "of_limit": limit_s / seconds,
                # In step the update comes on top; it was left out of those runs.
                "step_s": timed.step_s + update_s * (lag == 0),
            }
        )
    head = {"engines": num_engines, "floor_ms": floor_ms}
    return [head | row for row in rows]


async def _all_at_once(
    args: argparse.Namespace, num_engines: int, cost: DecodeCost, steps: list[list[IntArray]], longest_first: bool
) -> float:
    """Mean seconds of these steps: each group goes to the engine with the fewest tokens, most tokens first."""
    loop, seconds = asyncio.get_running_loop(), []
    for groups in steps:
        dealt: list[list[int]] = [[] for _ in range(num_engines)]
        for place in sorted(range(len(groups)), key=lambda place: -groups[place].sum()):
            min(dealt, key=lambda mine: sum(int(groups[other].sum()) for other in mine)).append(place)
        engines = [BatchingClock(args.places, cost, args.prompt_tokens) for _ in range(num_engines)]
        begin = loop.time()
        await asyncio.gather(
            *(
                engine.generate(groups[place])
                for engine, mine in zip(engines, dealt, strict=True)
                for place in sorted(mine, key=lambda place: -groups[place].max() if longest_first else place)
            )
        )
        seconds.append(loop.time() - begin)
        for engine in engines:
            engine.close()
    return float(np.mean(seconds))


@dataclass(slots=True)
class _Timed:
    """What one arm took: mean seconds of the rollouts of a step, of a step as a whole, and of engines that are always
    full; ``counted`` are the lengths of all groups, by step."""

    rollout_s: float
    step_s: float
    saturated_s: float
    counted: list[list[IntArray]]


@dataclass(slots=True)
class _Case:
    args: argparse.Namespace
    num_engines: int
    cost: DecodeCost
    lag: int
    in_chunks: bool
    update_s: float = 0.0
    begun: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    learnt: dict[int, float] = field(default_factory=dict)
    groups: dict[int, list[IntArray]] = field(default_factory=dict)

    @property
    def lengths(self) -> Lengths:
        args = self.args
        return Lengths(args.mean_tokens, args.cap, args.group_sigma, args.response_sigma, args.seed)

    def run(self) -> _Timed:
        with tempfile.TemporaryDirectory() as scratch:
            run_in_virtual_time(self._train(Path(scratch) / "run"))
        # Once nothing runs ahead any more, the last steps are another thing.
        steps = range(self.args.warm_up + 1, self.args.steps - self.lag + 1)
        counted = [self.groups[step] for step in steps]
        all_lengths = np.concatenate([lengths for groups in counted for lengths in groups])
        full_s = saturated_s(all_lengths, self.args.places, self.cost, self.args.prompt_tokens)
        return _Timed(
            rollout_s=float(np.mean([self.ended[step] - self.begun[step] for step in steps])),
            step_s=(self.ended[steps[-1]] - self.ended[steps[0] - 1]) / len(steps),
            saturated_s=full_s / self.num_engines / len(steps),
            counted=counted,
        )

    def config(self, directory: Path) -> TrainConfig:
        args = self.args
        never = args.steps
        overrides = (
            f"run.directory={directory}",
            f"run.num_steps={args.steps}",
            f"run.max_policy_lag={self.lag}",
            f"run.seed={args.seed}",
            "model.path=none",
            f"rollout.engine={'torch' if self.in_chunks else 'vllm'}",
            f"rollout.num_workers={self.num_engines}",
            f"rollout.group_size={args.group_size}",
            f"rollout.prompts_per_chunk={args.prompts_per_chunk}",
            f"rollout.max_response_tokens={args.cap}",
            f"rollout.vllm.max_num_seqs={args.places}",
            f"selection.num_prompts={args.prompts}",
            "selection.selector=uniform",
            f"evaluation.every_steps={never}",
            f"evaluation.probe_every_steps={never}",
            f"checkpoint.every_steps={never}",
        )
        return load_config(TrainConfig, None, overrides)

    async def _train(self, directory: Path) -> None:
        config = self.config(directory)
        names = [f"p{i:05d}" for i in range(self.args.pool + 1)]
        prompts = tuple(Prompt(prompt_id=name, text=f"prompt {name}", answer="", task="clock") for name in names)
        data = DataSets(pool=prompts[:-1], evaluation=prompts[-1:], heldout_probe=(), pool_probe=(), num_duplicates=0)
        folder = RunFolder(directory)
        folder.create(config, data.splits)
        by_id = {prompt.prompt_id: prompt for prompt in prompts}
        pool = _TimedPool(self, config, by_id)
        await pool.start()
        parts = LoopParts(
            selector=InProcessSelector(config, data, folder, directory),
            pool=pool,
            learner=_ClockLearner(self),
            data=data,
            folder=folder,
            store=CheckpointStore(folder.root, 1),
            identity=Identity(pool=pool_fingerprint(data)),  # a clock has no model
        )
        await TrainingLoop(config, parts).run()
        pool.close()


class _TimedPool(WorkerPool):
    """The pool, and a note of when each step's rollouts began and ended."""

    def __init__(self, case: _Case, config: TrainConfig, prompts: Mapping[str, Prompt]) -> None:
        self._case = case
        super().__init__(config.rollout, partial(_ClockWorker, case), {"": prompts}, num_versions=case.lag + 1)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        loop, case = asyncio.get_running_loop(), self._case
        is_step = request.stream == "rollout"
        if is_step:
            case.begun[request.step] = loop.time()
            case.groups[request.step] = [
                case.lengths.of(name, request.stream, request.step, int(num))
                for name, num in zip(request.prompt_ids, request.num_rollouts, strict=True)
            ]
        async for chunk in super().generate(request):
            yield chunk
        if is_step:
            case.ended[request.step] = loop.time()


class _ClockWorker:
    """A ``WorkerPort`` around a clock."""

    def __init__(self, case: _Case, index: int, number: int) -> None:
        self._case = case
        self._clock = BatchingClock(case.args.places, case.cost, case.args.prompt_tokens)
        self._one_at_a_time = asyncio.Lock()
        self._num_received = 0
        self._received = asyncio.Condition()

    async def ready(self) -> None:
        """It is."""

    async def load_weights(self, published: PublishedWeights) -> None:
        await asyncio.sleep(self._case.args.load_s)

    async def run(self, chunk: ChunkRequest) -> Chunk:
        lengths = [
            self._case.lengths.of(prompt.prompt_id, chunk.stream, chunk.step, int(num))
            for prompt, num in zip(chunk.prompts, chunk.num_rollouts, strict=True)
        ]
        if self._case.in_chunks:
            async with self._one_at_a_time:
                await self._clock.generate(np.concatenate(lengths))
        else:
            ended = asyncio.ensure_future(self._clock.generate(lengths[0]))
            await asyncio.sleep(0)
            async with self._received:
                self._num_received += 1
                self._received.notify_all()
            await ended
        return _chunk_of(chunk, lengths)

    async def room(self, num_sent: int) -> int:
        async with self._received:
            await self._received.wait_for(lambda: self._num_received >= num_sent)
        places, group_size = self._case.args.places, self._case.args.group_size
        await self._clock.until_unfinished_below(room_for(places, 0, group_size))
        return room_for(places, self._clock.num_unfinished, group_size)

    def end(self) -> None:
        self._clock.close()


class _ClockLearner:
    """A ``LearnerPort`` that only takes its time."""

    def __init__(self, case: _Case) -> None:
        self._case = case
        self._version = 0

    async def update(self, request: UpdateRequest) -> UpdateResult:
        await asyncio.sleep(self._case.update_s)
        self._version += 1
        return UpdateResult(policy_version=self._version, metrics={})

    async def publish(self) -> PublishedWeights:
        return PublishedWeights(policy_version=self._version, payload=None)

    async def save(self, directory: Path) -> None:
        directory.mkdir(parents=True)

    async def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)


def _chunk_of(chunk: ChunkRequest, lengths: list[IntArray]) -> Chunk:
    """Half of each group's responses are right."""
    outcomes = [
        GroupOutcome(
            prompt_id=prompt.prompt_id,
            policy_version=chunk.policy_version,
            rewards=(np.arange(len(group)) % 2).astype(np.float32),
            status=(np.arange(len(group)) % 2).astype(np.int8),
            response_lengths=group.astype(np.int32),
        )
        for prompt, group in zip(chunk.prompts, lengths, strict=True)
    ]
    num_right = np.array([outcome.num_right for outcome in outcomes], dtype=np.int32)
    num_failed = np.zeros(len(outcomes), dtype=np.int32)
    header = ChunkHeader(
        chunk_id=chunk.chunk_id,
        step=chunk.step,
        stream=chunk.stream,
        policy_version=chunk.policy_version,
        prompt_ids=tuple(outcome.prompt_id for outcome in outcomes),
        num_right=num_right,
        num_wrong=np.array([outcome.num_tried for outcome in outcomes], dtype=np.int32) - num_right,
        num_failed=num_failed,
        num_truncated=num_failed,
        num_response_tokens=np.array([group.sum() for group in lengths], dtype=np.int32),
        reward_sum=num_right.astype(np.float64),
        cpu_s=0.0,
        wall_s=0.0,
    )
    return Chunk(header=header, outcomes=outcomes_to_table(outcomes), rollouts=None)
