"""A rollout worker: one engine and the verifier in one process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from gps_ray.base.types import ChunkHeader, PublishedWeights
from gps_ray.config import RolloutConfig
from gps_ray.rollout.chunk import ChunkRequest, ChunkRunner, build_engine
from gps_ray.tasks.chat import DEFAULT_CHAT, ChatFormat
from gps_ray.tasks.registry import load_task
from gps_ray.weights.interface import WeightPayload

__all__ = ["RolloutWorker", "WorkerSpec"]


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
    """Runs chunks. A worker that was just started serves nothing until it has loaded the current weights."""

    def __init__(self, spec: WorkerSpec) -> None:
        import torch

        torch.set_num_threads(spec.rollout.num_threads)
        engine = build_engine(spec.rollout, spec.model_directory, spec.dtype, spec.chat)
        own = {name: load_task(*named) for name, named in spec.suite_tasks.items()}
        task = load_task(spec.task, spec.task_options)
        self._runner = ChunkRunner(engine, task, spec.rollout, spec.run_seed, own)

    def ready(self) -> int:
        """The process id, once the engine is up."""
        return os.getpid()

    def load_weights(self, published: PublishedWeights, payload: WeightPayload) -> None:
        # ``payload`` is an argument of its own: only top-level references are resolved by Ray, without a copy.
        self._runner.load_weights(published, payload)

    def run(self, chunk: ChunkRequest) -> tuple[ChunkHeader, pa.Table, pa.Table]:
        """Three return values, so that the caller owns them and they outlive this process."""
        return self._runner.run(chunk)
