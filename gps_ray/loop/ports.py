"""What the loop needs of the outside world. On Ray the three ports are actors, in tests they are plain objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gps_ray.base.types import (
    Chunk,
    FloatArray,
    GenerateRequest,
    ObserveResult,
    PosteriorMoments,
    PublishedWeights,
    Selection,
    SelectionRequest,
    UpdateRequest,
    UpdateResult,
)

__all__ = ["LearnerPort", "RolloutPool", "SelectorPort"]


class SelectorPort(Protocol):
    """Which prompts next? Depends only on its own state after ``observe``, never on the policy's weights; the oracle
    alone is told what they can do."""

    async def select(self, request: SelectionRequest) -> Selection: ...

    async def observe(self, step: int, chunks: Sequence[Chunk], selections: Sequence[Selection]) -> ObserveResult:
        """Learn from every group of the step, kept or not, in the order of the selection."""
        ...

    async def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        """Predicted success rates of any known prompts; None where the selector predicts nothing."""
        ...

    async def candidates(self, request: SelectionRequest) -> tuple[str, ...]:
        """The prompts whose success rates ``select(request)`` must know (the oracle alone)."""
        ...

    async def reveal(self, prompt_ids: Sequence[str], rates: FloatArray) -> None:
        """Success rates [K] of these prompts under the weights of the coming step (the oracle alone)."""
        ...

    async def save(self, directory: Path) -> None: ...

    async def load(self, directory: Path) -> None: ...


class RolloutPool(Protocol):
    """Who makes the rollouts."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Chunks as they finish, in any order; together they hold each requested prompt exactly once."""
        ...

    async def load_weights(self, published: PublishedWeights) -> None:
        """Returns when every healthy worker serves this version and its probe agreed."""
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
