"""The course of the learning rate over the updates of a run."""

from __future__ import annotations

import math

from gps_ray.config import LearningConfig

__all__ = ["learning_rate_factor"]


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
