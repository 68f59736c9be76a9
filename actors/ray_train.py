"""What the learner asks of Ray Train: processes, placement and a process group; nothing else.

It owns no checkpoint, repairs nothing, and keeps quiet: its own logs lie in Ray's session folder. It is imported where
it is used: a driver, which only passes this module on, needs neither it nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

from gps_ray.base.errors import GpsRayError

__all__ = ["first_failure", "one_line", "select_gpu", "torch_trainer"]

MAX_REASON_CHARACTERS = 300


def torch_trainer(
    train_loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    *,
    name: str,
    storage_directory: Path,
    num_workers: int,
    num_cpus: float,
    num_gpus: float = 0.0,
) -> TorchTrainer:
    """A trainer whose first failure is its last. ``settings`` go to each worker's ``train_loop``."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import LoggingConfig

    # A preempted node is a lost worker like any other here; the watcher would be one more process per attempt.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # fit() waits in a thread of its own beside the mailbox's event loop; Ray takes it for one that blocks the loop.
    os.environ.setdefault("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "0")
    resources = {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}
    return _lean_trainer()(
        train_loop,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if num_gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=bool(num_gpus), resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage_directory),
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _lean_trainer() -> type[TorchTrainer]:
    """TorchTrainer without two of the processes that it starts one after the other before the train workers: the one
    that serves Ray Data's data sets, and the one that gives a dead controller's reservation back, as RayLearner does.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class LeanTrainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            unused = (DatasetsCallback, PlacementGroupCleanerCallback)
            return [each for each in super()._create_default_callbacks() if not isinstance(each, unused)]

    return LeanTrainer


def select_gpu() -> None:
    """Make the GPU that Ray gave this train worker torch's current one: workers of one node see all of theirs."""
    import torch
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)


def first_failure(error: BaseException) -> BaseException:
    """What broke in the first worker that failed, where ``error`` of fit() is about workers."""
    failures = getattr(error, "worker_failures", None)
    return next(iter(failures.values())) if failures else error


def one_line(error: BaseException) -> str:
    """Our own errors are readable as they are; of any other the kind and the last line, where Python puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, GpsRayError):
        return " ".join(lines)
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:MAX_REASON_CHARACTERS]
