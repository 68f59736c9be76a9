"""What the loop needs of the outside world. On Ray the three ports are actors, in tests they are plain objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gps_ray.base.types import (
    Chunk,
    GenerateRequest,
    ObserveResult,
    PosteriorMoments,
    PublishedWeights,
    Selection,
    SelectionRequest,
    UpdateRequest,
    UpdateResult,
)

__all__ = ["LearnerPort", "ProgressSink", "RolloutPool", "SelectorPort"]


class SelectorPort(Protocol):
    """Which prompts next? Depends only on its own state after ``observe``, never on the policy's weights."""

    async def select(self, request: SelectionRequest) -> Selection: ...

    async def observe(self, step: int, chunks: Sequence[Chunk], selections: Sequence[Selection]) -> ObserveResult:
        """Learn from every group of the step, kept or not, in the order of the selection."""
        ...

    async def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        """Predicted success rates of any known prompts; None where the selector predicts nothing."""
        ...

    async def save(self, directory: Path) -> None: ...

    async def load(self, directory: Path) -> None: ...


class RolloutPool(Protocol):
    """Who makes the rollouts. Requests of run.max_policy_lag + 1 versions may be under way at a time."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they finish, in any order; together they hold each requested prompt exactly once."""
        ...

    async def load_weights(self, published: PublishedWeights) -> None:
        """Serve this version from now on, beside those that requests under way ask for. Returns when every healthy
        worker that has nothing left of those serves it and its probe agreed; who stops waiting for that changes
        nothing."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Queue depth, healthy workers, restarts and use of the object store, as of now."""
        ...


class LearnerPort(Protocol):
    """Who trains the policy."""

    async def update(self, request: UpdateRequest) -> UpdateResult: ...

    async def publish(self) -> PublishedWeights: ...

    async def save(self, directory: Path) -> None: ...

    async def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face folder."""
        ...


class ProgressSink(Protocol):
    """Who watches the run: a terminal display, a log, the cluster's metrics."""

    def phase(self, name: str) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...
