"""A selector with a guard: some of its slots are drawn evenly from the pool, more of them while the policy falls there.

Any selector can be guarded: it chooses as if alone, then its last picks by score give way to even draws until the
guard's share is reached. Random slots of its own count, so as long as it has that many of them nothing changes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, FloatArray, IntArray, Selection, SelectionRequest, SlotKind, State
from gps_ray.config import GuardConfig
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.selection.guard import ForgettingGuard, Window
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.lengths import KnownLengths

__all__ = ["GuardedSelector"]


class GuardedSelector:
    """``selector`` under a ``ForgettingGuard``. ``select`` notes which prompts fill even slots, nothing else; the guard
    moves in ``observe``. Rollouts per slot stay as they were, whichever prompt fills it."""

    def __init__(self, selector: PromptSelector, table: PromptTable, config: GuardConfig, run_seed: int) -> None:
        self._selector = selector
        self._table = table
        self._run_seed = run_seed
        self._index = PromptIndex(table)
        self._lengths = KnownLengths(selector, len(table.prompt_ids))
        self._guard = ForgettingGuard(config, table.num_pool)
        self._is_even = np.zeros(table.num_pool, dtype=np.bool_)  # of the prompts under way: drawn evenly

    def select(self, request: SelectionRequest) -> Selection:
        selection = self._selector.select(request)
        num_even = max(round(self._guard.share * len(selection.prompt_ids)), 1)
        by_score = np.flatnonzero(selection.slot_kind != SlotKind.RANDOM)
        num_missing = min(num_even - (len(selection.prompt_ids) - len(by_score)), len(by_score))
        if num_missing > 0:
            selection = self._with_even_slots(selection, by_score[-num_missing:], request)
        rows = self._index.rows(selection.prompt_ids)
        self._is_even[rows] = selection.slot_kind == SlotKind.RANDOM
        return selection

    def _with_even_slots(self, selection: Selection, slots: IntArray, request: SelectionRequest) -> Selection:
        """The same with ``slots`` [K] filled evenly from what is free and not in the rest of the batch."""
        rows = self._index.rows(selection.prompt_ids)
        free = self._index.free(request.excluded)
        free[np.delete(rows, slots)] = False
        rng = generator(self._run_seed, "selector/guard", request.step, rollout=request.round)
        drawn = rng.choice(np.flatnonzero(free), size=len(slots), replace=False)
        posterior = self._selector.predict(drawn, request.step)
        mean = std = np.full(len(slots), np.nan)
        if posterior is not None:
            mean = np.asarray(posterior.mean(), dtype=np.float64)
            std = np.sqrt(np.asarray(posterior.variance(), dtype=np.float64))
        rows[slots] = drawn
        slot_kind = selection.slot_kind.copy()
        slot_kind[slots] = SlotKind.RANDOM
        return replace(
            selection,
            prompt_ids=tuple(self._table.prompt_ids[row] for row in rows),
            predicted_mean=_filled(selection.predicted_mean, slots, mean),
            predicted_std=_filled(selection.predicted_std, slots, std),
            slot_kind=slot_kind,
            # Why a prompt was picked: it was not, so nothing is said.
            expected_useful=_unsaid(selection.expected_useful, slots),
            text_mean=_unsaid(selection.text_mean, slots),
        )

    def observe(self, batch: OutcomeBatch) -> None:
        self._selector.observe(batch)
        self._lengths.observe(batch)
        even = self._is_even[batch.rows]
        window = Window(
            first_step=batch.step,
            rows=batch.rows[even],
            num_right=batch.num_right[even].astype(np.int64),
            num_tried=batch.num_tried[even].astype(np.int64),
        )
        self._guard.observe(batch.step, window, batch.rows[~even])
        self._is_even[batch.rows] = False

    def predict(self, rows: IntArray, step: int) -> Posterior | None:
        return self._selector.predict(rows, step)

    def expected_lengths(self, rows: IntArray) -> FloatArray:
        """As the selector predicts them, else by a record."""
        return self._lengths.expected_lengths(rows)

    def seen(self, rows: IntArray) -> BoolArray:
        return self._selector.seen(rows)

    def metrics(self) -> dict[str, float]:
        return {**self._selector.metrics(), **self._guard.metrics()}

    def state(self) -> State:
        own = {"is_even": self._is_even.copy(), **self._guard.state()}
        return {
            **nested("guard", own),
            **nested("guarded", self._selector.state()),
            **nested("lengths", self._lengths.state()),
        }

    def load_state(self, state: State) -> None:
        own = below("guard", state)
        if not own:
            raise CheckpointError(
                "selector state: this checkpoint was written without a guard; resume with selection.guard.enabled=false"
            )
        self._guard.load_state(own)
        self._is_even = own["is_even"].astype(np.bool_)
        self._selector.load_state(below("guarded", state))
        self._lengths.load_state(below("lengths", state))


def _filled(values: FloatArray, slots: IntArray, new: FloatArray) -> FloatArray:
    filled = values.copy()
    filled[slots] = new
    return filled


def _unsaid(values: FloatArray | None, slots: IntArray) -> FloatArray | None:
    return None if values is None else _filled(values, slots, np.full(len(slots), np.nan))
