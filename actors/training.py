"""Put one training run together on Ray: data, model, actors, loop."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.learner_actor import spawn_learner
from actors.observability import ClusterMetrics
from actors.rollout_pool import RayRolloutPool
from actors.rollout_worker import WorkerSpec
from actors.selector_actor import spawn_selector
from actors.signals import stopping_on_signals
from actors.stalls import WaitsSink, stall_watched
from actors.unplaced import said_while_unplaced
from actors.warm_start_trainer import ensure_model, find_model
from gps_ray.base.concurrency import gather_or_cancel
from gps_ray.base.waits import Waits
from gps_ray.config import TrainConfig
from gps_ray.loop.breaks import StopRequest
from gps_ray.loop.guards import check_verifier
from gps_ray.loop.opening import (
    check_run_folder,
    dated,
    kept_warm_start,
    note_first_prompt,
    open_folder,
    run_identity,
)
from gps_ray.loop.parts import LoopParts
from gps_ray.loop.plan import chat_format, check_data, in_ray_job, prompt_limit, resolve, with_folder
from gps_ray.loop.ports import ProgressSink
from gps_ray.loop.presets import presets
from gps_ray.loop.suites import Suite, extra_suites, read_suites
from gps_ray.loop.training import TrainingLoop
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.prompt_features import build_prompt_table
from gps_ray.run.folder import RunFolder, check_can_be_written
from gps_ray.run.lease import Lease
from gps_ray.run.mirror import Mirror, attach_mirror, fetch_warm_start
from gps_ray.run.status import StatusFile
from gps_ray.run.trackers import TrackedRun, TrackerSink, check_tracking, open_trackers
from gps_ray.tasks.dataset import DataSets, load_data
from gps_ray.tasks.registry import load_task

if TYPE_CHECKING:
    from gps_ray.learning.supervised import Progress

__all__ = [
    "prepare",
    "run_training",
    "start_model",
    "train",
    "try_suites",
    "worker_spec",
]


# From here on the work on the texts takes long enough to be announced.
_LARGE_POOL = 10_000


def prepare(config: TrainConfig, *, trains: bool = True) -> tuple[TrainConfig, DataSets]:
    """Everything that can be found wrong before Ray starts is found here. What was filled in, dropped or looks wrong is
    printed, a line each. A job that does not train (``trains`` false) needs no pool."""
    config = with_folder(config)
    for preset in presets(config):
        print(preset, flush=True)
    config = resolve(config)
    if in_ray_job():
        features = config.selection.features.cache_directory
        print(f"caches: warm start {config.warm_start.cache_directory}, features {features}", flush=True)
    check_tracking(config.tracking)
    check_can_be_written(config.run.directory)
    limit = prompt_limit(config)
    data = load_data(config.data, config.evaluation.num_probe_prompts, limit)
    data = replace(data, suites=read_suites(config, data.pool, limit))
    for note in data.notes:
        print(note, flush=True)
    if trains or data.pool:
        check_data(config, data)
    if trains:
        _check_caches(config)
    if config.rollout.engine != "simulated":
        task = load_task(config.data.task, config.data.task_options)
        for line in check_verifier(task, data.pool or data.evaluation, config.rollout):
            print(line, flush=True)
    try_suites(config, extra_suites(config, data.suites))
    return config, data


def _check_caches(config: TrainConfig) -> None:
    """Raise ConfigError where a cache that is to be filled cannot be written. One that is full may be read alone."""
    if config.makes_warm_start and find_model(config) is None:
        check_can_be_written(config.warm_start.cache_directory, "warm_start.cache_directory")
    features = config.selection.features.cache_directory
    if features is not None and not any(features.glob("*.npy")):
        check_can_be_written(features, "selection.features.cache_directory")


def try_suites(config: TrainConfig, suites: Sequence[Suite]) -> None:
    """Try the verifiers of the suites; prints what is odd. Raises RolloutError where one does not work."""
    for suite in suites if config.rollout.engine != "simulated" else ():
        for line in check_verifier(load_task(suite.task, suite.task_options), suite.prompts, config.rollout):
            print(f"suite {suite.name}: {line}", flush=True)


def run_training(
    config: TrainConfig, data: DataSets, *, resume: bool = False, sinks: Sequence[ProgressSink] = ()
) -> Mapping[str, float]:
    """One run on the connected cluster, start to end; returns the last step's metrics.

    ``config`` and ``data`` come from ``prepare``. With ``resume`` the run goes on from its newest whole checkpoint, or
    from the start where it has none yet. Raises RunStopped after SIGTERM, Ctrl-C or at run.time_limit_s.
    """
    name, model_directory = config.run.directory.absolute().name, start_model(config, resume)

    async def run() -> Mapping[str, float]:
        stop = StopRequest()
        with stopping_on_signals(stop, config.run):
            return await train(config, data, model_directory, name, stop, resume=resume, sinks=sinks)

    return asyncio.run(run())


def start_model(config: TrainConfig, resume: bool, progress: Progress | None = None) -> Path | None:
    """The folder of the policy that the run begins from. A run that goes on takes its own copy of a warm start, from
    its folder or its mirror; else as ``ensure_model``. Raises CheckpointError where another driver holds the folder."""
    if resume and config.makes_warm_start and config.run.mirror is not None:
        with Lease(config.run.directory.absolute(), config.run.lease_s):
            fetch_warm_start(config)
    return kept_warm_start(config, resume) or ensure_model(config, progress)


async def train(
    config: TrainConfig,
    data: DataSets,
    model_directory: Path | None,
    name: str,
    stop: StopRequest,
    *,
    resume: bool = False,
    sinks: Sequence[ProgressSink] = (),
) -> Mapping[str, float]:
    """``run_training`` for a driver that may have several runs going; the actors' names begin with ``name``.

    Raises CheckpointError where another driver holds the run folder, or takes it while this one is stopped.
    """
    with Lease(config.run.directory.absolute(), config.run.lease_s) as lease:
        check_run_folder(config, resume)  # again: another may have begun a run, and ended, since the job looked
        mirror, wait_s = attach_mirror(config, resume), config.run.mirror_deadline_s
        try:
            with stall_watched(name, config.run) as waits:
                return await _train_held(
                    config, data, model_directory, name, lease, stop, mirror, waits, resume=resume, sinks=sinks
                )
        except asyncio.CancelledError:
            wait_s = 0.0  # the time to end in is over
            raise
        finally:
            if mirror is not None:
                await mirror.finish(wait_s)


def worker_spec(
    config: TrainConfig,
    model_directory: Path | None,
    suites: Sequence[Suite] = (),
    date: datetime.date | None = None,
) -> WorkerSpec:
    """What the config asks of a rollout worker; chat templates are told ``run.date``, else ``date``, else today."""
    return WorkerSpec(
        rollout=config.rollout,
        model_directory=model_directory,
        dtype=config.model.dtype,
        task=config.data.task,
        task_options=config.data.task_options,
        run_seed=config.run.seed,
        chat=chat_format(config.data, config.run.date or date),
        suite_tasks={suite.key: (suite.task, suite.task_options) for suite in suites if suite.key},
    )


def _prompt_table(config: TrainConfig, data: DataSets, model_directory: Path | None) -> PromptTable:
    features = config.selection.features
    if len(data.pool) >= _LARGE_POOL:
        kept = f": made once, then kept in {features.cache_directory}" if features.cache_directory else ""
        print(f"text features of {len(data.pool)} prompts{kept}", flush=True)
    from gps_ray.predictor.policy_states import policy_reader  # transformers takes seconds to import

    reader = policy_reader(model_directory, chat_format(config.data, config.run.date), config.selection)
    if reader is not None:
        print(f"states of {len(data.pool)} prompts are read from the policy: some minutes for a large pool", flush=True)
    return build_prompt_table(data.pool, data.heldout_probe, features, reader)


def _trackers(
    config: TrainConfig, name: str, folder: RunFolder, num_steps_done: int | None, resume: bool
) -> list[TrackerSink]:
    """``num_steps_done``: of the checkpoint that the run goes on from, None where it begins."""
    tracked = TrackedRun(
        name=name,
        run_id=folder.run_id(),
        folder=folder.root,
        config=config.model_dump(mode="json"),
        goes_on_at=num_steps_done + 1 if num_steps_done is not None else 0 if resume else None,
    )
    return open_trackers(config.tracking, tracked)


async def _train_held(
    config: TrainConfig,
    data: DataSets,
    model_directory: Path | None,
    name: str,
    lease: Lease,
    stop: StopRequest,
    mirror: Mirror | None,
    waits: Waits,
    *,
    resume: bool,
    sinks: Sequence[ProgressSink],
) -> Mapping[str, float]:
    # A run of a comparison is given the warm start that all share, and may have begun from another machine's.
    model_directory = kept_warm_start(config, resume) or model_directory
    identity = run_identity(config, data, model_directory)
    config = dated(config, resume)
    folder, store, found = open_folder(config, data, identity, resume, lease.check, mirror)
    if mirror is not None and model_directory is not None and config.makes_warm_start:
        folder.keep_warm_start(model_directory)
    note_first_prompt(folder, config, data, model_directory, goes_on=found is not None)
    table = _prompt_table(config, data, model_directory)
    prompts = {p.prompt_id: p for split in (data.pool, data.evaluation, data.heldout_probe) for p in split}
    suites = extra_suites(config, data.suites)
    spec = worker_spec(config, model_directory, suites)
    selector = spawn_selector(
        f"{name}/selector", config.selection, table, config.rollout.group_size, config.run.seed, folder.outcomes
    )
    pool = RayRolloutPool(name, spec, prompts, suites, num_versions=config.run.max_policy_lag + 1)
    learner = spawn_learner(f"{name}/learner", config, model_directory, folder.root / "ray_train")
    num_steps_done = None if found is None else found[1].num_steps_done
    status = StatusFile(folder.status, pool.workers, num_steps_done or 0, lease.check)
    cluster_metrics = ClusterMetrics(name, folder.run_id(), pool.workers)
    pool.when_workers_change(status.write, cluster_metrics.show_workers)
    trackers, is_finished = _trackers(config, name, folder, num_steps_done, resume), False
    try:
        for sink in (status, WaitsSink(waits)):
            sink.phase("starting the actors")
        with said_while_unplaced(name, pool.actors):
            await gather_or_cancel(
                pool.start(), learner.start(resume_from=None if found is None else found[0] / "learner")
            )
        parts = LoopParts(
            selector=selector,
            pool=pool,
            learner=learner,
            data=data,
            folder=folder,
            store=store,
            identity=identity,
            sinks=(*sinks, WaitsSink(waits), status, cluster_metrics, *trackers),
            stop=stop,
            mirror=mirror,
        )
        if found is not None:
            await selector.load(found[0] / "selector")
        metrics = await TrainingLoop(config, parts, None if found is None else found[1]).run()
        is_finished = True
        return metrics
    finally:
        await learner.close()
        pool.close()
        selector.close()
        for tracker in trackers:
            tracker.close(is_finished)
