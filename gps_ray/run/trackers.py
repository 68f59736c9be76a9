"""Where a run's metrics go besides its folder: TensorBoard, Weights & Biases, MLflow, or a tracker of the user's own.

Each works in a thread of its own behind a queue, so that one that is slow, hangs or fails costs the run nothing: it is
given up, which is said once. What it would have shown is in ``metrics.jsonl`` all the same.
"""

from __future__ import annotations

import math
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from gps_ray.base.errors import ConfigError, one_line
from gps_ray.base.import_path import call_with_options, check_options, load_object
from gps_ray.config import TrackingConfig

__all__ = ["TRACKERS", "MetricNames", "TrackedRun", "Tracker", "TrackerSink", "check_tracking", "open_trackers"]

_MAX_WAITING = 1000  # steps
_CLOSE_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of the run. ``run_id`` is the same after a resume, which logs ``goes_on_at`` and the steps
    after it anew (None: a new run); ``config`` is the resolved one."""

    name: str
    run_id: str
    folder: Path
    config: Mapping[str, Any]
    goes_on_at: int | None = None


class Tracker(Protocol):
    """May raise anything: the run goes on without it. Made by a factory that takes a TrackedRun and its options."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of one step, all finite, under names that every tracker takes."""
        ...

    def close(self, finished: bool) -> None:
        """No step comes any more; ``finished``: the run has made all of its steps."""
        ...


class MetricNames:
    """Names that every tracker takes: ``val/pass@1`` is ``val/pass_at_1`` there. Two metrics never share one."""

    def __init__(self) -> None:
        self._by_metric: dict[str, str] = {}

    def of(self, metric: str) -> str:
        if metric not in self._by_metric:
            name = re.sub(r"[^\w\-. /]", "_", metric.replace("@", "_at_"), flags=re.ASCII)
            taken, number = set(self._by_metric.values()), 2
            unique = name
            while unique in taken:
                unique, number = f"{name}_{number}", number + 1
            self._by_metric[metric] = unique
        return self._by_metric[metric]


class TensorBoardTracker:
    """Event files in the run folder's ``tensorboard/``, or in ``directory``."""

    def __init__(self, run: TrackedRun, *, directory: str | None = None) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(directory or run.folder / "tensorboard"),
            # TensorBoard then forgets the steps that a resumed run makes anew.
            purge_step=run.goes_on_at,
            flush_secs=5,
            # Names of event files hold whole seconds; TensorBoard reads them in the order of their names.
            filename_suffix=f".{time.time_ns()}.{os.getpid()}",
        )
        if run.goes_on_at is None:
            self._writer.add_text("config", f"```yaml\n{yaml.safe_dump(dict(run.config), sort_keys=False)}\n```", 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, finished: bool) -> None:
        self._writer.close()


class WandbTracker:
    """Weights & Biases. Offline by default: files in the run folder's ``wandb/``, for ``wandb sync``."""

    def __init__(
        self,
        run: TrackedRun,
        *,
        project: str = "gps-ray",
        mode: Literal["offline", "online"] = "offline",
        entity: str | None = None,
        group: str | None = None,
    ) -> None:
        if mode not in ("offline", "online"):
            raise ConfigError(f"tracking.options.wandb.mode: expected offline or online, got {mode!r}; change it")
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # not even its own crashes are sent
        import wandb

        self._run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            name=run.name,
            id=run.run_id,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=str(run.folder),
            config=dict(run.config),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MlflowTracker:
    """MLflow: a file store in the run folder's ``mlruns/``, or the server at ``uri``.

    Names keep their first slash, by which MLflow groups them, and have dots for the others: in a file store
    ``val/pass_at_1`` is a file, and cannot be the folder of ``val/pass_at_1/low`` too.
    """

    def __init__(self, run: TrackedRun, *, uri: str | None = None, experiment: str = "gps-ray") -> None:
        if uri is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            # Its own notice that the file store gets no new features is no reason to refuse one.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri or (run.folder / "mlruns").absolute().as_uri())
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = self._client.create_experiment(experiment) if found is None else found.experiment_id
        earlier = self._client.search_runs([experiment_id], f"tags.`gps_ray.run_id` = '{run.run_id}'", max_results=1)
        if earlier:
            self._id = earlier[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return
        tags = {"gps_ray.run_id": run.run_id}
        self._id = self._client.create_run(experiment_id, tags=tags, run_name=run.name).info.run_id
        for key, value in _flat(run.config):
            self._client.log_param(self._id, key, value[:500])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(_one_slash(name), value, now, step) for name, value in metrics.items()]
        for start in range(0, len(rows), 1000):  # as many as it takes at once
            self._client.log_batch(self._id, metrics=rows[start : start + 1000])

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def _one_slash(name: str) -> str:
    group, slash, rest = name.partition("/")
    return group + slash + rest.replace("/", ".")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield re.sub(r"[^\w\-. /]", "_", f"{prefix}{key}", flags=re.ASCII), str(value)


TrackerFactory = Callable[..., Tracker]
TRACKERS: dict[str, TrackerFactory] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}
_PACKAGES = {"tensorboardX": "tensorboardX", "wandb": "gps-ray[wandb]", "mlflow": "gps-ray[mlflow]"}


class TrackerSink:
    """A progress sink of the loop that hands every step to one tracker, in a thread of its own. ``say`` takes the one
    line that is said where the tracker is given up."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Tracker],
        say: Callable[[str], None] | None = None,
        close_deadline_s: float = _CLOSE_DEADLINE_S,
    ) -> None:
        self._name, self._make = name, make
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._close_deadline_s = close_deadline_s
        self._steps: queue.Queue[tuple[int, dict[str, float]] | bool] = queue.Queue(_MAX_WAITING)
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        # A daemon: a tracker that hangs does not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def phase(self, name: str) -> None:
        """Trackers show steps."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._given_up.is_set():
            return
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        try:
            self._steps.put_nowait((step, finite))
        except queue.Full:
            self._give_up(f"has not taken {_MAX_WAITING} steps in a row")

    def close(self, finished: bool) -> None:
        """Wait for what is under way, though not for ever."""
        if self._given_up.is_set():
            return
        try:
            self._steps.put(finished, timeout=self._close_deadline_s)
            self._thread.join(self._close_deadline_s)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._give_up(f"did not end within {self._close_deadline_s:g} s")

    def _work(self) -> None:
        names = MetricNames()
        try:
            tracker = self._make()
            while not self._given_up.is_set():
                taken = self._steps.get()
                if isinstance(taken, bool):
                    tracker.close(taken)
                    return
                step, metrics = taken
                tracker.log(step, {names.of(name): value for name, value in metrics.items()})
        except ModuleNotFoundError as error:
            package = _PACKAGES.get(error.name or "", error.name or "what it needs")
            self._give_up(f"is not installed (pip install '{package}')")
        except BaseException as error:  # a library may even exit: it may end its own thread, not the run
            self._give_up(f"failed ({type(error).__name__}: {one_line(error)})")

    def _give_up(self, why: str) -> None:
        with self._lock:
            if not self._given_up.is_set():
                self._given_up.set()
                self._say(f"tracking: {self._name} {why}; the run goes on without it, metrics.jsonl has everything")


def check_tracking(config: TrackingConfig) -> None:
    """Raise ConfigError for a tracker that stands for nothing, or options that nobody takes."""
    for name in config.trackers:
        check_options(_factory(name), config.options.get(name, {}), f"tracking.options.{name}", 1)
    for name in config.options:
        if name not in config.trackers:
            raise ConfigError(
                f"tracking.options.{name}: is for a tracker that is not among tracking.trackers, "
                f"{', '.join(config.trackers) or 'none'}; add it there, or remove the options"
            )


def _factory(name: str) -> TrackerFactory:
    if name in TRACKERS:
        return TRACKERS[name]
    if ":" not in name:
        raise ConfigError(
            f"tracking.trackers: expected some of {', '.join(TRACKERS)} or an import path 'package.module:name', got "
            f"{name!r}; change tracking.trackers"
        )
    factory: TrackerFactory = load_object(name, "tracking.trackers")
    return factory


def open_trackers(config: TrackingConfig, run: TrackedRun) -> list[TrackerSink]:
    """A sink for each tracker of the config, each of which may fail by itself."""

    def maker(name: str) -> Callable[[], Tracker]:
        options = config.options.get(name, {})
        return lambda: call_with_options(_factory(name), options, f"tracking.options.{name}", run)

    return [TrackerSink(name, maker(name)) for name in config.trackers]
