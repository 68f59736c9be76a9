"""A rollout worker: one engine and the verifiers beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gps_ray.base.lean_imports import lean_imports
from gps_ray.base.types import PublishedWeights
from gps_ray.config import RolloutConfig
from gps_ray.rollout.chunk import ChunkRequest, ChunkResult, ChunkRunner, build_engine
from gps_ray.rollout.engine import ContinuousEngine, RolloutEngine
from gps_ray.rollout.group_runner import GroupRunner
from gps_ray.tasks.chat import DEFAULT_CHAT, ChatFormat
from gps_ray.tasks.interface import Task
from gps_ray.tasks.registry import load_task
from gps_ray.weights.interface import WeightPayload

__all__ = ["MAX_CALLS", "ContinuousRolloutWorker", "RolloutWorker", "WorkerSpec"]

# Calls that a worker may have at a time: one per group in its engine. Ray's own 1,000 would be the limit of the batch.
MAX_CALLS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All that a worker needs to start; equal for all workers of a run, so that any may run any chunk."""

    rollout: RolloutConfig
    model_directory: Path | None
    dtype: str
    task: str
    run_seed: int
    task_options: Mapping[str, Any] = field(default_factory=dict)
    chat: ChatFormat = DEFAULT_CHAT
    # Verifiers of the evaluation suites: (task, its options) by name.
    suite_tasks: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)


class RolloutWorker:
    """Runs chunks, one after the other. A worker that was just started serves nothing until it has loaded weights."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._runner = ChunkRunner(_engine(spec), *_tasks_and_settings(spec))

    def ready(self) -> int:
        """The process id, once the engine is up."""
        return os.getpid()

    def load_weights(self, published: PublishedWeights, payload: WeightPayload) -> None:
        # ``payload`` is an argument of its own: only top-level references are resolved by Ray, without a copy.
        self._runner.load_weights(published, payload)

    def run(self, chunk: ChunkRequest) -> ChunkResult:
        """Three return values, so that the caller owns them and they outlive this process."""
        return self._runner.run(chunk)


class ContinuousRolloutWorker:
    """The same for an engine that batches continuously: its calls are under way side by side, a group each."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._runner = GroupRunner(lambda: cast(ContinuousEngine, _engine(spec)), *_tasks_and_settings(spec))

    async def ready(self) -> int:
        """The process id, once the engine is up."""
        return os.getpid()

    async def load_weights(self, published: PublishedWeights, payload: WeightPayload) -> None:
        await asyncio.wrap_future(self._runner.load_weights(published, payload))

    async def run(self, chunk: ChunkRequest) -> ChunkResult:
        return await asyncio.wrap_future(self._runner.run(chunk))

    async def room(self, num_sent: int) -> int:
        """As ``GroupRunner.room``."""
        return await asyncio.wrap_future(self._runner.room(num_sent))

    async def seconds_running(self, key: tuple[str, str, int, int]) -> float:
        """As ``GroupRunner.seconds_running``."""
        return self._runner.seconds_running(key)


def _engine(spec: WorkerSpec) -> RolloutEngine:
    """Made in the thread that will have it: torch's number of threads is each thread's own."""
    if spec.rollout.engine == "simulated":  # which is up in less time than these imports take
        return build_engine(spec.rollout, spec.model_directory, spec.dtype, spec.chat)
    with lean_imports():
        import torch

        torch.set_num_threads(spec.rollout.num_threads)
        return build_engine(spec.rollout, spec.model_directory, spec.dtype, spec.chat)


def _tasks_and_settings(spec: WorkerSpec) -> tuple[Task, RolloutConfig, int, dict[str, Task]]:
    own = {name: load_task(*named) for name, named in spec.suite_tasks.items()}
    return load_task(spec.task, spec.task_options), spec.rollout, spec.run_seed, own
