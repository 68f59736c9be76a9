"""A run in this process, without Ray: selector, engine, verifiers and learner of a real run, one after the other.

For machines that have a GPU and no Ray, and for a debugger. It begins anew and cannot be resumed; what it leaves behind
is a run folder like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import (
    Chunk,
    GenerateRequest,
    ObserveResult,
    PosteriorMoments,
    PublishedWeights,
    Selection,
    SelectionRequest,
    UpdateRequest,
    UpdateResult,
)
from gps_ray.config import TrainConfig
from gps_ray.learning.learner import Learner
from gps_ray.loop.opening import run_identity
from gps_ray.loop.parts import LoopParts
from gps_ray.loop.plan import chat_format
from gps_ray.loop.ports import ProgressSink
from gps_ray.loop.training import TrainingLoop
from gps_ray.predictor.policy_states import policy_reader
from gps_ray.predictor.prompt_features import build_prompt_table
from gps_ray.rollout.chunk import ChunkRunner, build_engine, cut_chunks
from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.folder import RunFolder
from gps_ray.selection.registry import build_selector
from gps_ray.selection.service import SelectorService
from gps_ray.tasks.dataset import DataSets
from gps_ray.tasks.registry import load_task
from gps_ray.weights.object_store import ObjectStorePayload

__all__ = ["InProcessSelector", "learner_of_run", "run_in_process"]


def run_in_process(
    config: TrainConfig, data: DataSets, model_directory: Path, sinks: Sequence[ProgressSink] = ()
) -> Mapping[str, float]:
    """Train by a resolved config; returns the last step's metrics.

    Raises ConfigError where the run folder holds a run already, or where the config asks for what only several
    processes can do.
    """
    if config.rollout.engine != "torch" or config.learning.num_workers != 1 or data.suites:
        raise ConfigError(
            "in one process a run has the torch engine, one train worker and no further evaluation suites; set "
            "rollout.engine=torch and learning.num_workers=1, and leave evaluation.suites out"
        )
    if config.run.mirror is not None:
        raise ConfigError("run.mirror: a run in one process cannot be resumed; set run.mirror=null")
    if config.run.directory.exists():
        raise ConfigError(f"run.directory: {config.run.directory} is there already; choose another")
    folder = RunFolder(config.run.directory.absolute())
    identity = run_identity(config, data, model_directory)
    folder.create(config, data.splits, identity)
    with contextlib.closing(_Pool(config, data, model_directory)) as pool:
        parts = LoopParts(
            selector=InProcessSelector(config, data, folder, model_directory),
            pool=pool,
            learner=_Learner(config, model_directory),
            data=data,
            folder=folder,
            store=CheckpointStore(folder.root, config.checkpoint.keep_last, keep_best=config.checkpoint.keep_best),
            identity=identity,
            sinks=sinks,
        )
        return asyncio.run(TrainingLoop(config, parts).run())


class _Pool:
    def __init__(self, config: TrainConfig, data: DataSets, model_directory: Path) -> None:
        rollout = config.rollout
        chat = chat_format(config.data, config.run.date)
        engine = build_engine(rollout, model_directory, config.model.dtype, chat)
        task = load_task(config.data.task, config.data.task_options)
        self._runner = ChunkRunner(engine, task, rollout, config.run.seed)
        self._prompts = {p.prompt_id: p for split in (data.pool, data.evaluation, data.heldout_probe) for p in split}
        self._prompts_per_chunk = rollout.prompts_per_chunk
        self._num_versions = config.run.max_policy_lag + 1
        self._published: dict[int, PublishedWeights] = {}
        self._served = -1
        self._turn = asyncio.Lock()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        async with self._turn:  # one engine, one version at a time
            self._serve(request.policy_version)
            for chunk in cut_chunks(request, self._prompts, self._prompts_per_chunk):
                header, outcomes, rollouts = self._runner.run(chunk)
                yield Chunk(header=header, outcomes=outcomes, rollouts=rollouts)

    async def load_weights(self, published: PublishedWeights) -> None:
        self._published[published.policy_version] = published
        for old in sorted(self._published)[: -self._num_versions]:
            del self._published[old]
        if not self._turn.locked():
            self._serve(published.policy_version)

    def _serve(self, version: int) -> None:
        if version != self._served:
            published = self._published[version]
            self._runner.load_weights(published, published.payload)
            self._served = version

    def metrics(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        self._runner.close()


class InProcessSelector:
    """The config's selector as a ``SelectorPort``."""

    def __init__(self, config: TrainConfig, data: DataSets, folder: RunFolder, model_directory: Path) -> None:
        features = config.selection.features
        reader = policy_reader(model_directory, chat_format(config.data, config.run.date), config.selection)
        table = build_prompt_table(data.pool, data.heldout_probe, features, reader)
        selector = build_selector(config.selection, table, config.rollout.group_size, config.run.seed)
        self._service = SelectorService(selector, table, folder.outcomes)

    async def select(self, request: SelectionRequest) -> Selection:
        return self._service.select(request)

    async def observe(self, step: int, chunks: Sequence[Chunk], selections: Sequence[Selection]) -> ObserveResult:
        return self._service.observe(step, selections, [chunk.outcomes for chunk in chunks])

    async def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        return self._service.predict(prompt_ids)

    async def save(self, directory: Path) -> None:
        self._service.save(directory)

    async def load(self, directory: Path) -> None:
        self._service.load(directory)


def learner_of_run(config: TrainConfig, model_directory: Path) -> Learner:
    """The learner that a run of this config has."""
    return Learner(
        model_directory,
        config.learning,
        dtype=config.model.dtype,
        temperature=config.rollout.temperature,
        max_response_tokens=config.rollout.max_response_tokens,
        num_steps=config.run.num_steps,
    )


class _Learner:
    def __init__(self, config: TrainConfig, model_directory: Path) -> None:
        self._learner = learner_of_run(config, model_directory)

    async def update(self, request: UpdateRequest) -> UpdateResult:
        return self._learner.update(request.rollouts, request.admitted, request.predictions)

    async def publish(self) -> PublishedWeights:
        tokens, logprobs = self._learner.probe()
        return PublishedWeights(
            policy_version=self._learner.policy_version,
            payload=ObjectStorePayload(arrays=self._learner.weights()),
            probe_tokens=tokens,
            probe_logprobs=logprobs,
        )

    async def save(self, directory: Path) -> None:
        self._learner.save(directory)

    async def export(self, directory: Path) -> None:
        self._learner.export(directory)
