"""The selector seam: "which prompts next?", as plain synchronous code (the actor around it adds only transport)."""

from __future__ import annotations

from typing import Protocol

from gps_ray.base.types import BoolArray, IntArray, Selection, SelectionRequest, State
from gps_ray.predictor.interface import OutcomeBatch, Posterior

__all__ = ["PromptSelector"]


class PromptSelector(Protocol):
    """Chooses prompts, observes their outcomes. Deterministic: draws are keyed by (run seed, stream, step, round)."""

    def select(self, request: SelectionRequest) -> Selection:
        """``request.num_prompts`` distinct prompts of the pool outside ``request.excluded`` (fewer only where the
        pool has no more). Asked again, it answers the same. All it may change is a note of what it picked, so that
        a state that is to go on from a selection is taken after it."""
        ...

    def observe(self, batch: OutcomeBatch) -> None:
        """Learn from all groups of one step, kept by admission or not."""
        ...

    def predict(self, rows: IntArray, step: int) -> Posterior | None: ...

    def seen(self, rows: IntArray) -> BoolArray: ...

    def metrics(self) -> dict[str, float]: ...

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...
