"""The three ports in this process: the real selector, engine, scoring and files; only the learner is a small double.

The double's "weights" are a number that depends on every rollout it was given and on their order, so a test sees at
once when an update was made of other data.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.base.storage import writing
from gps_ray.base.types import (
    Chunk,
    GenerateRequest,
    ObserveResult,
    PosteriorMoments,
    Prompt,
    PublishedWeights,
    Selection,
    SelectionRequest,
    UpdateRequest,
    UpdateResult,
)
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.breaks import StopRequest
from gps_ray.loop.parts import LoopParts
from gps_ray.loop.plan import pool_fingerprint
from gps_ray.loop.training import TrainingLoop
from gps_ray.predictor.interface import PromptTable
from gps_ray.rollout.chunk import ChunkRunner, build_engine, cut_chunks
from gps_ray.rollout.simulated_engine import SimulatedTask
from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.folder import FolderPosition, RunFolder
from gps_ray.run.identity import Identity
from gps_ray.run.metrics import read_metrics
from gps_ray.run.mirror import attach_mirror
from gps_ray.selection.registry import build_selector
from gps_ray.selection.service import SelectorService
from gps_ray.tasks.dataset import DataSets
from gps_ray.weights.object_store import ObjectStorePayload

__all__ = ["Killed", "Run", "results", "simulated_config"]


class Killed(Exception):
    """The process "dies" here."""


def simulated_config(directory: Path, *overrides: str) -> TrainConfig:
    """Six steps of eight prompts on the simulated engine."""
    base = (
        f"run.directory={directory}",
        "run.num_steps=6",
        "rollout.engine=simulated",
        "rollout.prompts_per_chunk=3",
        "selection.num_prompts=8",
        "selection.selector=uniform",
        "evaluation.every_steps=3",
        "evaluation.probe_every_steps=3",
        "evaluation.num_probe_prompts=10",
        "evaluation.probe_rollouts=4",
        "checkpoint.every_steps=2",
    )
    return load_config(TrainConfig, None, (*base, *overrides))


def simulated_data(num_pool: int = 60, num_heldout: int = 10) -> DataSets:
    prompts = [
        Prompt(prompt_id=f"p{i:03d}", text=f"prompt number {i}", answer="right", task="simulated", level=f"l{i % 3}")
        for i in range(num_pool + 2 * num_heldout)
    ]
    pool, rest = prompts[:num_pool], prompts[num_pool:]
    return DataSets(
        pool=tuple(pool),
        evaluation=tuple(rest[:num_heldout]),
        heldout_probe=tuple(rest[num_heldout:]),
        pool_probe=tuple(pool[::6]),
        num_duplicates=0,
    )


def simulated_table(data: DataSets) -> PromptTable:
    prompts = (*data.pool, *data.heldout_probe)
    embeddings = generator(0, "tests/embeddings").normal(size=(len(prompts), 64)).astype(np.float32)
    return PromptTable(
        prompt_ids=tuple(p.prompt_id for p in prompts),
        texts=tuple(p.text for p in prompts),
        embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        num_pool=len(data.pool),
    )


def results(root: Path) -> tuple[object, ...]:
    """All of a finished run that does not depend on the clock: metrics, final model, outcomes as bytes."""
    steps = [
        {k: v for k, v in row.items() if not k.startswith(("timing_s/", "cost/cpu_s", "cost/wall_s", "mirror/"))}
        for row in read_metrics(root / "metrics.jsonl")
    ]
    for row in steps:
        row.pop("rollout/tokens_per_s", None)
    final = (root / "final_model" / "config.json").read_bytes()
    outcomes = {path.name: path.read_bytes() for path in (root / "outcomes").glob("*")}
    return steps, final, outcomes


class _Pool:
    """``shuffle`` changes the order in which chunks finish, those of several steps among each other, as timing would.
    It serves the versions that the loop gave it last, as many as may be asked for."""

    def __init__(self, run: Run, shuffle: int) -> None:
        self._run, self._shuffle = run, shuffle
        config = run.config.rollout
        self._runner = ChunkRunner(
            build_engine(config, None, run.config.model.dtype), SimulatedTask(), config, run.config.run.seed
        )
        data = run.data
        own = {p.prompt_id: p for part in (data.pool, data.evaluation, data.heldout_probe) for p in part}
        self._prompts = {"": own, **{name: {p.prompt_id: p for p in suite} for name, suite in data.suites.items()}}
        self.versions: list[int] = []
        self._published: dict[int, PublishedWeights] = {}
        # Every request, and the learner's version when it came.
        self.requests: list[tuple[GenerateRequest, int]] = []

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        self._run.point("generate")
        self.requests.append((request, self._run.learner.version))
        chunks = cut_chunks(request, self._prompts[request.suite], self._run.config.rollout.prompts_per_chunk)
        rng = generator(self._shuffle, "tests/finish", request.step)
        for i in rng.permutation(len(chunks)):
            for _ in range(1 + rng.integers(0, 40) * bool(self._shuffle)):
                await asyncio.sleep(0)
            self._serve(request.policy_version)
            header, outcomes, rollouts = self._runner.run(chunks[i])
            yield Chunk(header=header, outcomes=outcomes, rollouts=rollouts)

    async def load_weights(self, published: PublishedWeights) -> None:
        self._run.point("load_weights")
        self.versions.append(published.policy_version)
        self._published[published.policy_version] = published
        for old in sorted(self._published)[: -1 - self._run.config.run.max_policy_lag]:
            del self._published[old]

    def _serve(self, version: int) -> None:
        published = self._published[version]
        self._runner.load_weights(published, published.payload)

    def metrics(self) -> Mapping[str, float]:
        return {"rollout/queue_depth": 0.0}


class _Selector:
    def __init__(self, run: Run) -> None:
        self._run = run
        table = simulated_table(run.data)
        selector = build_selector(run.config.selection, table, run.config.rollout.group_size, run.config.run.seed)
        self.service = SelectorService(selector, table, run.folder.outcomes)

    async def select(self, request: SelectionRequest) -> Selection:
        self._run.point("select")
        self._run.selected.set()
        return self.service.select(request)

    async def observe(self, step: int, chunks: Sequence[Chunk], selections: Sequence[Selection]) -> ObserveResult:
        self._run.point("observe")
        return self.service.observe(step, selections, [chunk.outcomes for chunk in chunks])

    async def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        return self.service.predict(prompt_ids)

    async def save(self, directory: Path) -> None:
        self._run.point("save selector")
        self.service.save(directory)

    async def load(self, directory: Path) -> None:
        self.service.load(directory)


class _Learner:
    def __init__(self, run: Run) -> None:
        self._run = run
        self.version = 0
        self.digest = ""
        self.wait_for_selection = False

    async def update(self, request: UpdateRequest) -> UpdateResult:
        self._run.point("update")
        if self.wait_for_selection:
            # Fails by its deadline unless the next selection is made while this update is under way.
            self._run.selected.clear()
            await asyncio.wait_for(self._run.selected.wait(), 10)
        digest = hashlib.sha256(self.digest.encode())
        for table in request.rollouts:
            digest.update(json.dumps(table.to_pydict()).encode())
        digest.update(repr(request.admitted).encode())
        self.digest = digest.hexdigest()
        self.version += 1
        return UpdateResult(policy_version=self.version, metrics={"train/loss": float(int(self.digest[:8], 16))})

    async def publish(self) -> PublishedWeights:
        return PublishedWeights(policy_version=self.version, payload=ObjectStorePayload(arrays={}))

    async def save(self, directory: Path) -> None:
        self._run.point("save learner")
        with writing(directory):
            directory.mkdir()
            (directory / "learner.json").write_text(json.dumps([self.version, self.digest]))

    def load(self, directory: Path) -> None:
        self.version, self.digest = json.loads((directory / "learner.json").read_text())

    async def export(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps([self.version, self.digest]))


class Run:
    """One process's life of a run. ``kill_at`` ends it at the n-th call of any port."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        resume: bool = False,
        kill_at: int | None = None,
        shuffle: int = 0,
        change: Callable[[Run], None] = lambda run: None,
        data: DataSets | None = None,
    ) -> None:
        self.config = config
        self.data = simulated_data() if data is None else data
        self.folder = RunFolder(config.run.directory)
        self.selected = asyncio.Event()
        self.points: list[str] = []
        self.stop = StopRequest()
        self._kill_at = kill_at
        self.mirror = attach_mirror(config, resume)
        self.store = CheckpointStore(
            self.folder.root,
            config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
            in_use=tuple if self.mirror is None else self.mirror.in_use,
        )
        found = self.store.newest() if resume else None
        self.folder.create(config, {"pool": self.data.pool, "evaluation": self.data.evaluation})
        if resume:
            self.folder.roll_back(FolderPosition() if found is None else found[1])
        self.selector, self.pool, self.learner = _Selector(self), _Pool(self, shuffle), _Learner(self)
        change(self)
        if found is not None:
            self.selector.service.load(found[0] / "selector")
            self.learner.load(found[0] / "learner")
        self.loop = TrainingLoop(
            config,
            LoopParts(
                selector=self.selector,
                pool=self.pool,
                learner=self.learner,
                data=self.data,
                folder=self.folder,
                store=self.store,
                stop=self.stop,
                mirror=self.mirror,
                identity=Identity(pool=pool_fingerprint(self.data)),
            ),
            None if found is None else found[1],
        )

    def point(self, name: str) -> None:
        self.points.append(name)
        if len(self.points) == self._kill_at:
            raise Killed(name)

    def __call__(self) -> Mapping[str, float]:
        async def run() -> Mapping[str, float]:
            try:
                return await self.loop.run()
            finally:
                if self.mirror is not None:
                    await self.mirror.finish(self.config.run.mirror_deadline_s)

        return asyncio.run(run())
