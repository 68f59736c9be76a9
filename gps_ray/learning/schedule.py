"""The course of the learning rate over the updates of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gps_ray.base.errors import CheckpointError
from gps_ray.config import LearningConfig, TrainConfig

__all__ = ["check_same_end", "learning_rate_factor"]


def learning_rate_factor(update: int, config: LearningConfig, num_updates: int) -> float:
    """Share of the configured learning rate in update number ``update`` (from 0) of ``num_updates``.

    Linear from 1/W to 1 over the W = lr_warmup_steps first updates, then constant, or linearly or along a half cosine
    down to min_lr_ratio in the last one. A function of the number alone: a resumed run needs no state.
    """
    if update < config.lr_warmup_steps:
        return (update + 1) / config.lr_warmup_steps
    if config.lr_scheduler_type == "constant":
        return 1.0
    left = max(1, num_updates - 1 - config.lr_warmup_steps)
    done = min(1.0, (update - config.lr_warmup_steps) / left)
    share = 1.0 - done if config.lr_scheduler_type == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * share


def check_same_end(made_with: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuse, by CheckpointError, to go on with a run whose linear or cosine schedule would end elsewhere than in the
    config that it was ``made_with`` (a TrainConfig as JSON): the learning rate, already low, would rise again."""
    if config.learning.lr_scheduler_type == "constant":
        return
    old = made_with["learning"].get("total_training_steps") or made_with["run"]["num_steps"]
    new = config.learning.total_training_steps or config.run.num_steps
    if old != new:
        raise CheckpointError(
            f"learning.total_training_steps: the {config.learning.lr_scheduler_type} schedule of this run ends at "
            f"update {old}, this config's at {new}; set learning.total_training_steps={old} (later updates have the "
            "lowest learning rate), or begin a new run in another run.directory"
        )
