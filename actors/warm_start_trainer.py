"""The warm start as a Ray Train job: one worker trains the embedded model and leaves it in the cache."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from gps_ray.config import TrainConfig
from gps_ray.errors import GpsRayError, LearnerError
from gps_ray.learning.warm_start import build_warm_start, find_warm_start

__all__ = ["ensure_model", "train_warm_start_on_ray"]


def _train(settings: dict[str, Any]) -> None:
    config: TrainConfig = settings["config"]
    build_warm_start(config.data, config.model.embedded, config.warm_start)


def ensure_model(config: TrainConfig) -> Path | None:
    """The folder of the policy to start from: ``model.path``, or the warm-started embedded model, made now if the cache
    lacks it. None for the simulated engine, which needs no model."""
    if config.model.path is not None:
        return config.model.path.absolute()
    if config.rollout.engine == "simulated":
        return None
    return train_warm_start_on_ray(config)


def train_warm_start_on_ray(config: TrainConfig) -> Path:
    """Raises LearnerError where the train worker fails, with its own reason."""
    warm_start = config.warm_start.model_copy(update={"cache_directory": config.warm_start.cache_directory.absolute()})
    config = config.model_copy(update={"warm_start": warm_start})
    found = find_warm_start(config.data, config.model.embedded, warm_start)
    if found is not None:
        return found
    with tempfile.TemporaryDirectory(prefix="gps-ray-warm-start-") as storage:
        trainer = TorchTrainer(
            _train,
            train_loop_config={"config": config},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(
                num_workers=1, resources_per_worker={"CPU": config.learning.num_cpus_per_worker}
            ),
            run_config=RunConfig(
                name="warm-start",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=0),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            cause = next(iter(getattr(error, "worker_failures", {}).values()), error)
            reason = str(cause).strip().splitlines()[-1]
            if isinstance(cause, GpsRayError):
                raise cause from None
            raise LearnerError(f"the warm start failed: {reason}; look at warm_start.* or set model.path") from error
    return build_warm_start(config.data, config.model.embedded, warm_start)
