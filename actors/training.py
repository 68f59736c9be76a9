"""Put one training run together on Ray: data, model, actors, loop."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
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
from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.base.json_files import write_json
from gps_ray.base.waits import Waits
from gps_ray.config import TrainConfig
from gps_ray.learning.schedule import check_same_end
from gps_ray.loop.breaks import StopRequest
from gps_ray.loop.guards import check_verifier
from gps_ray.loop.plan import (
    chat_format,
    check_data,
    check_first_prompt,
    first_prompt,
    in_ray_job,
    pool_fingerprint,
    prompt_limit,
    resolve,
    with_folder,
)
from gps_ray.loop.ports import ProgressSink
from gps_ray.loop.presets import presets
from gps_ray.loop.suites import Suite, extra_suites, read_suites
from gps_ray.loop.training import LoopParts, TrainingLoop
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.prompt_features import build_prompt_table
from gps_ray.run.checkpoint import CheckpointStore, Manifest, check_same_run
from gps_ray.run.folder import FolderPosition, RunFolder, check_can_be_written
from gps_ray.run.identity import Identity, code_version, model_identity, weights_identity
from gps_ray.run.lease import Lease
from gps_ray.run.mirror import Mirror, attach_mirror, fetch_warm_start
from gps_ray.run.status import StatusFile
from gps_ray.run.trackers import TrackedRun, TrackerSink, check_tracking, open_trackers
from gps_ray.tasks.dataset import DataSets, load_data
from gps_ray.tasks.registry import load_task

if TYPE_CHECKING:
    from gps_ray.learning.supervised import Progress

__all__ = [
    "check_resume",
    "check_run_folder",
    "dated",
    "move_aside",
    "open_folder",
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
    if _makes_warm_start(config) and find_model(config) is None:
        check_can_be_written(config.warm_start.cache_directory, "warm_start.cache_directory")
    features = config.selection.features.cache_directory
    if features is not None and not any(features.glob("*.npy")):
        check_can_be_written(features, "selection.features.cache_directory")


def try_suites(config: TrainConfig, suites: Sequence[Suite]) -> None:
    """Try the verifiers of the suites; prints what is odd. Raises RolloutError where one does not work."""
    for suite in suites if config.rollout.engine != "simulated" else ():
        for line in check_verifier(load_task(suite.task, suite.task_options), suite.prompts, config.rollout):
            print(f"suite {suite.name}: {line}", flush=True)


def check_run_folder(config: TrainConfig, resume: bool) -> None:
    """Raise ConfigError where the run folder would be lost, or holds another run, CheckpointError where what is to be
    gone on with cannot be read."""
    if in_ray_job() and not config.run.directory.is_absolute():
        raise ConfigError(
            f"run.directory: {config.run.directory} would lie in the job's temporary working directory; "
            "give an absolute path on storage that all nodes see"
        )
    if resume:
        RunFolder(config.run.directory.absolute()).check_kinds()
    elif (config.run.directory / "checkpoints").exists():
        raise ConfigError(
            f"run.directory: {config.run.directory} already holds a run; go on with it by --resume, begin anew by "
            "--restart, or choose another"
        )


def dated(config: TrainConfig, resume: bool) -> TrainConfig:
    """The config with the day that chat templates are told: its own, that of the run's first start, or today."""
    first = None
    if resume:
        folder = RunFolder(config.run.directory.absolute())
        manifest = CheckpointStore(folder.root, 1).newest_manifest()
        first = folder.first_date(None if manifest is None else manifest.config)
    date = config.run.date or first or datetime.date.today()
    return config.model_copy(update={"run": config.run.model_copy(update={"date": date})})


def move_aside(config: TrainConfig) -> Path | None:
    """Make room for a new run: the old folder becomes ``<folder>.old-1``, or the next number that is free. Returns its
    new place, None where there was none. Raises CheckpointError where a driver is at work in it."""
    root = config.run.directory.absolute()
    if not root.exists():
        return None
    with Lease(root, config.run.lease_s):
        number = 1
        while (aside := root.with_name(f"{root.name}.old-{number}")).exists():
            number += 1
        root.rename(aside)
    return aside


def check_resume(config: TrainConfig, data: DataSets) -> None:
    """What can be found wrong with a resume before Ray starts and the model is there: raises CheckpointError where the
    folder holds another run, or results and no checkpoint. Changes nothing."""
    folder = RunFolder(config.run.directory.absolute())
    folder.check_kinds()
    manifest = CheckpointStore(folder.root, 1).newest_manifest()
    if manifest is None and config.run.mirror is not None:
        return  # which may have one
    _same_run(folder, manifest, config, Identity(pool=pool_fingerprint(data), code=code_version()))


def _same_run(folder: RunFolder, found: Manifest | None, config: TrainConfig, identity: Identity) -> list[str]:
    """Notes on going on, from ``found`` or from the start. Raises CheckpointError where that would be another run."""
    if found is not None:
        check_same_end(found.config, config)
        return check_same_run(found.config, found.identity, config, identity)
    if folder.has_results():
        raise CheckpointError(
            f"run.directory: {folder.root} holds results and no whole checkpoint to go on from; restore one, or begin "
            "anew by --restart of jobs.train, which moves the folder aside"
        )
    if (record := folder.record()) is not None:
        # Nothing is done yet; what is begun here is the run that the folder was made for.
        check_same_run(*record, config, identity)
    return []


def open_folder(
    config: TrainConfig,
    data: DataSets,
    identity: Identity,
    resume: bool,
    fence: Callable[[], None] = lambda: None,
    mirror: Mirror | None = None,
) -> tuple[RunFolder, CheckpointStore, tuple[Path, Manifest] | None]:
    """The run folder, its checkpoints and, on a resume, the newest whole one. Raises CheckpointError where that is of
    another run. ``fence`` is asked before each commit and each line; what ``mirror`` uploads is not pruned."""
    folder = RunFolder(config.run.directory.absolute(), fence)
    keep = config.checkpoint
    in_use = tuple if mirror is None else mirror.in_use
    store = CheckpointStore(folder.root, keep.keep_last, fence, keep_best=keep.keep_best, in_use=in_use)
    found = store.newest() if resume else None
    notes = _same_run(folder, None if found is None else found[1], config, identity) if resume else []
    if found is not None and found[1].num_steps_done > config.run.num_steps:
        print(
            f"{config.run.directory}: resume: {found[1].num_steps_done} steps are done, run.num_steps asks for "
            f"{config.run.num_steps}: no step is left to make",
            flush=True,
        )
    folder.create(config, data.splits, identity)
    num_steps_done = 0 if found is None else found[1].num_steps_done
    if resume:
        notes += folder.roll_back(FolderPosition() if found is None else found[1])
    if resume or data.notes:
        # What is known of the data stands with the first step.
        folder.note(num_steps_done, [*(data.notes if num_steps_done == 0 else ()), *notes])
    for note in notes:
        print(f"{config.run.directory}: {note}", flush=True)
    return folder, store, found


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
    root = config.run.directory.absolute()
    if resume and _makes_warm_start(config):
        if config.run.mirror is not None:
            with Lease(root, config.run.lease_s):
                fetch_warm_start(config)
        if (kept := RunFolder(root).warm_start).exists():
            return kept
    return ensure_model(config, progress)


def _makes_warm_start(config: TrainConfig) -> bool:
    return config.model.path is None and config.rollout.engine != "simulated"


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


def _start_of(config: TrainConfig, model_directory: Path | None, resume: bool) -> Path | None:
    """A run of a comparison is given the warm start that all share, and may have begun from another machine's."""
    kept = RunFolder(config.run.directory.absolute()).warm_start
    return kept if resume and kept.exists() and _makes_warm_start(config) else model_directory


def _identity(config: TrainConfig, data: DataSets, model_directory: Path | None) -> Identity:
    made = model_directory is not None and _makes_warm_start(config)
    return Identity(
        pool=pool_fingerprint(data),
        model=model_identity(model_directory),
        code=code_version(),
        warm_start=weights_identity(model_directory) if made and model_directory is not None else "",
    )


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
    model_directory = _start_of(config, model_directory, resume)
    identity = _identity(config, data, model_directory)
    config = dated(config, resume)
    folder, store, found = open_folder(config, data, identity, resume, lease.check, mirror)
    if mirror is not None and model_directory is not None and _makes_warm_start(config):
        folder.keep_warm_start(model_directory)
    shown = first_prompt(config, data, model_directory)
    if shown is not None:
        if found is not None:
            check_first_prompt(folder.first_prompt, shown)
        write_json(folder.first_prompt, asdict(shown))
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
