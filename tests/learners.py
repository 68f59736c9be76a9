"""A learner in this process that is made as a run makes its own, and updates as a run asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray

from gps_ray.base.types import RolloutGroup, UpdateRequest
from gps_ray.config import TrainConfig
from gps_ray.learning.learner import Learner
from tests.unit.learning.rollouts import ids, make_tables

__all__ = ["learner_of_run", "update_request"]


def learner_of_run(directory: Path, config: TrainConfig) -> Learner:
    return Learner(
        directory,
        config.learning,
        dtype=config.model.dtype,
        temperature=config.rollout.temperature,
        max_response_tokens=config.rollout.max_response_tokens,
        num_steps=config.run.num_steps,
    )


def update_request(groups: Sequence[RolloutGroup]) -> UpdateRequest:
    """The groups' tables in the object store."""
    tables = tuple(ray.put(table) for table in make_tables(groups))
    return UpdateRequest(step=1, rollouts=tables, admitted=ids(groups))
