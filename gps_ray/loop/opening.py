"""The folder that a run begins in or goes on with: whose it is, and what is written before the first step."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from gps_ray.base.errors import CheckpointError, ConfigError
from gps_ray.base.json_files import write_json
from gps_ray.config import TrainConfig
from gps_ray.learning.schedule import check_same_end
from gps_ray.loop.plan import check_first_prompt, first_prompt, in_ray_job, pool_fingerprint
from gps_ray.run.checkpoint import CheckpointStore, Manifest, check_same_run
from gps_ray.run.folder import FolderPosition, RunFolder
from gps_ray.run.identity import Identity, code_version, model_identity, weights_identity
from gps_ray.run.lease import Lease
from gps_ray.run.mirror import Mirror
from gps_ray.tasks.dataset import DataSets
from gps_ray.tasks.registry import load_task
from gps_ray.tasks.verifier_identity import foreign_identity

__all__ = [
    "check_resume",
    "check_run_folder",
    "dated",
    "kept_warm_start",
    "move_aside",
    "note_first_prompt",
    "open_folder",
    "run_identity",
]


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
    _same_run(folder, manifest, config, _known_before(config, data))


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


def kept_warm_start(config: TrainConfig, resume: bool) -> Path | None:
    """The run's own copy of the warm start that it began from; None where it has none, or is not gone on with."""
    kept = RunFolder(config.run.directory.absolute()).warm_start
    return kept if resume and config.makes_warm_start and kept.exists() else None


def run_identity(config: TrainConfig, data: DataSets, model_directory: Path | None) -> Identity:
    """What a run that begins from ``model_directory`` is told from others by."""
    made = model_directory if config.makes_warm_start else None
    of_model = {
        "model": model_identity(model_directory),
        "warm_start": "" if made is None else weights_identity(made),
    }
    return _known_before(config, data).model_copy(update=of_model)


def _known_before(config: TrainConfig, data: DataSets) -> Identity:
    """What is known before the model is there."""
    judged = config.rollout.engine != "simulated"
    verifier = foreign_identity(load_task(config.data.task, config.data.task_options)) if judged else ""
    return Identity(pool=pool_fingerprint(data), code=code_version(), verifier=verifier)


def note_first_prompt(
    folder: RunFolder, config: TrainConfig, data: DataSets, model_directory: Path | None, *, goes_on: bool
) -> None:
    """Write down what the model reads of the first prompt. Raises CheckpointError where a run that goes on would read
    it otherwise than it did."""
    shown = first_prompt(config, data, model_directory)
    if shown is not None:
        if goes_on:
            check_first_prompt(folder.first_prompt, shown)
        write_json(folder.first_prompt, asdict(shown))
