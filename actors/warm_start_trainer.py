"""The warm start as one Ray actor: it trains the embedded model and leaves it in the cache.

No Ray Train: one process has no group to join, and fit() starts seven processes one after the other.
"""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.ray_train import one_line
from gps_ray.base.errors import DeadlineError, GpsRayError, LearnerError
from gps_ray.base.lean_imports import lean_imports
from gps_ray.config import TrainConfig
from gps_ray.learning.warm_start import build_warm_start, find_warm_start, warm_start_folder

if TYPE_CHECKING:
    from gps_ray.learning.supervised import Progress

__all__ = ["ensure_model", "find_model"]

POLL_S = 5.0  # how often progress is passed on; the end itself is not polled for


class _ProgressFile:
    """How far the worker is, for whoever waits elsewhere: the cache lies on storage that both see."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, step: int, num_steps: int, loss: float) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps([step, num_steps, loss]))
        partial.replace(self._path)

    def read(self) -> tuple[int, int, float] | None:
        try:
            step, num_steps, loss = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        return step, num_steps, loss


class _WarmStart:
    """The process that trains."""

    def build(self, config: TrainConfig, progress_file: Path) -> None:
        with lean_imports():
            importlib.import_module("gps_ray.learning.supervised")  # which build_warm_start needs
        build_warm_start(config.data, config.model.embedded, config.warm_start, _ProgressFile(progress_file))


def find_model(config: TrainConfig) -> Path | None:
    """The folder of the policy to start from if it is there: ``model.path``, or the warm-started embedded model of this
    config. Needs no cluster."""
    if config.model.path is not None:
        return config.model.path.absolute()
    found = find_warm_start(config.data, config.model.embedded, config.warm_start)
    return None if found is None else found.absolute()


def ensure_model(config: TrainConfig, progress: Progress | None = None) -> Path | None:
    """The folder of the policy to start from, made now on the connected cluster if the cache lacks it. None for the
    simulated engine, which needs no model.

    Raises DeadlineError after ``warm_start.deadline_s``, a GpsRayError of the actor as such, and LearnerError where it
    fails in any other way.
    """
    if config.model.path is None and not config.makes_warm_start:
        return None
    found = find_model(config)
    return _train(config, progress) if found is None else found


def _train(config: TrainConfig, progress: Progress | None) -> Path:
    # The actor may run in another folder.
    cache = config.warm_start.cache_directory.absolute()
    warm_start = config.warm_start.model_copy(update={"cache_directory": cache})
    config = config.model_copy(update={"warm_start": warm_start})
    folder = warm_start_folder(config.data, config.model.embedded, warm_start)
    cache.mkdir(parents=True, exist_ok=True)
    progress_file = cache / f"{folder.name}.progress"
    # An actor rather than a task: it can be ended at any moment, done or not. To cancel a task whose answer is just on
    # its way aborts the whole driver (Ray 2.60).
    actor = (
        ray.remote(_WarmStart)
        .options(
            name=f"warm-start-{folder.name}",
            num_cpus=config.learning.num_cpus_per_worker,
            num_gpus=config.learning.num_gpus_per_worker,
        )
        .remote()
    )
    try:
        reference = actor.build.remote(config, progress_file)
        _await(reference, _ProgressFile(progress_file), progress, warm_start.deadline_s)
    finally:
        ray.kill(actor)
        progress_file.unlink(missing_ok=True)
    found = find_model(config)
    if found is None:
        raise LearnerError(
            f"warm_start.cache_directory: the warm start left nothing whole in {folder}; give a folder that all "
            "nodes see"
        )
    return found


def _await(reference: Any, watched: _ProgressFile, progress: Progress | None, deadline_s: float) -> None:
    """Watch the clock and pass progress on until the call is done."""
    end = time.monotonic() + deadline_s
    last: tuple[int, int, float] | None = None
    done: list[Any] = []
    while not done:
        if time.monotonic() > end:
            raise DeadlineError(
                f"the warm start took longer than {deadline_s:g} s; raise warm_start.deadline_s if it only needs time"
            )
        done, _ = ray.wait([reference], timeout=min(POLL_S, max(0.0, end - time.monotonic())))
        now = watched.read()
        if progress is not None and now is not None and now != last:
            progress(*now)
            last = now
    try:
        ray.get(reference)
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, GpsRayError):
            raise cause from None
        raise LearnerError(
            f"the warm start failed: {one_line(cause)}; look at warm_start.* or set model.path"
        ) from error
