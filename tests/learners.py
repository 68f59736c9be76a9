"""Updates as a run asks for them."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from gps_ray.base.types import RolloutGroup, UpdateRequest
from tests.unit.learning.rollouts import ids, make_tables

__all__ = ["update_request"]


def update_request(groups: Sequence[RolloutGroup]) -> UpdateRequest:
    """The groups' tables in the object store."""
    tables = tuple(ray.put(table) for table in make_tables(groups))
    return UpdateRequest(step=1, rollouts=tables, admitted=ids(groups))
