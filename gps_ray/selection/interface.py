"""The selector seam: "which prompts next?", as plain synchronous code (the actor around it adds only transport)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from gps_ray.base.types import BoolArray, IntArray, Selection, SelectionRequest, SlotKind, State
from gps_ray.predictor.interface import OutcomeBatch, Posterior, Predictor

__all__ = ["PredictorRow", "PromptSelector", "SelectorRow", "unpredicted_selection"]


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


def unpredicted_selection(
    request: SelectionRequest, prompt_ids: tuple[str, ...], slot_kind: SlotKind, num_candidates: int
) -> Selection:
    """A selection of a selector that predicts nothing: ``request.group_size`` rollouts each, means and stds NaN."""
    num_prompts = len(prompt_ids)
    return Selection(
        step=request.step,
        round=request.round,
        prompt_ids=prompt_ids,
        num_rollouts=np.full(num_prompts, request.group_size, dtype=np.int32),
        predicted_mean=np.full(num_prompts, np.nan),
        predicted_std=np.full(num_prompts, np.nan),
        slot_kind=np.full(num_prompts, slot_kind, dtype=np.int8),
        num_candidates=num_candidates,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorRow:
    """All that is to know of a selector by name. An import path may lead to a row, or to a bare factory, which stands
    for a row with the defaults.

    ``factory(config, table, group_size, run_seed, **options)`` makes it: ``config`` is the resolved ``selection``
    section, ``options`` are ``selection.options`` (none for a built-in one). ``preset``: settings by dotted key under
    ``selection``, used where the config leaves the key unset. ``predicts``: does it share out rollouts by a posterior
    (``selection.group_size_range``)? ``admission``: the rule that its method has, used where ``selection.admission`` is
    null. ``needs_true_rates``: must somebody tell it its candidates' success rates before every selection (the oracle)?
    ``section``: where under ``selection`` a built-in one has settings of its own.
    """

    factory: Callable[..., PromptSelector]
    preset: Mapping[str, Any] = field(default_factory=dict)
    predicts: bool = False
    admission: Literal["keep_all", "useful_only"] = "keep_all"
    needs_true_rates: bool = False
    section: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorRow:
    """A predictor by name, like ``SelectorRow``; its options are ``selection.predictor_options``.

    ``predicts_rates``: is its posterior one of success rates? Otherwise it says what a group of the usual size will be,
    and nothing of groups of other sizes.
    """

    factory: Callable[..., Predictor]
    predicts_rates: bool = True
    section: str | None = None
