"""What a run is made of, as whoever starts it puts it together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gps_ray.loop.breaks import StopRequest
from gps_ray.loop.ports import LearnerPort, ProgressSink, RolloutPool, SelectorPort
from gps_ray.run.checkpoint import CheckpointStore
from gps_ray.run.folder import RunFolder
from gps_ray.run.identity import Identity
from gps_ray.run.mirror import Mirror
from gps_ray.tasks.dataset import DataSets

__all__ = ["LoopParts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopParts:
    """``sinks`` are told of every phase and every finished step, ``stop`` is where somebody may ask the run to end,
    ``mirror`` takes what was committed to another place."""

    selector: SelectorPort
    pool: RolloutPool
    learner: LearnerPort
    data: DataSets
    folder: RunFolder
    store: CheckpointStore
    identity: Identity
    sinks: Sequence[ProgressSink] = ()
    stop: StopRequest = field(default_factory=StopRequest)
    mirror: Mirror | None = None
