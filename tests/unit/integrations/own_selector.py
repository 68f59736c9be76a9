"""A selector of a user's own, as ``package.module:name``: the least used prompts in their order."""

from __future__ import annotations

from typing import Any

import numpy as np

from gps_ray.base.types import BoolArray, IntArray, Selection, SelectionRequest, SlotKind, State
from gps_ray.predictor.history import PromptIndex, ReuseCounter
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.selection.interface import PromptSelector, unpredicted_selection


class _InOrder:
    def __init__(self, table: PromptTable) -> None:
        self._index, self._reuse = PromptIndex(table), ReuseCounter(table.num_pool)

    def select(self, request: SelectionRequest) -> Selection:
        free = np.flatnonzero(self._index.free(request.excluded))
        rows = free[np.argsort(self._reuse.counts[free], kind="stable")][: request.num_prompts]
        names = tuple(self._index.table.prompt_ids[row] for row in rows)
        return unpredicted_selection(request, names, SlotKind.CHOSEN, len(free))

    def observe(self, batch: OutcomeBatch) -> None:
        self._reuse.observe(batch.rows)

    def predict(self, rows: IntArray, step: int) -> Posterior | None:
        return None

    def seen(self, rows: IntArray) -> BoolArray:
        return self._reuse.seen(rows)

    def metrics(self) -> dict[str, float]:
        return self._reuse.metrics()

    def state(self) -> State:
        return self._reuse.state()

    def load_state(self, state: State) -> None:
        self._reuse.load_state(state)


def in_order(config: Any, table: PromptTable, group_size: int, run_seed: int) -> PromptSelector:
    return _InOrder(table)
