"""The baseline that predicts nothing: an epoch shuffle without replacement."""

from __future__ import annotations

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import BoolArray, IntArray, Selection, SelectionRequest, SlotKind, State
from gps_ray.predictor.history import PromptIndex, ReuseCounter
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.selection.interface import unpredicted_selection

__all__ = ["UniformSelector"]


class UniformSelector:
    """Goes through the pool in a fresh random order per epoch, keyed by (run_seed, epoch).

    All state is how often each prompt has been observed: a prompt is due in epoch e while it was observed at most e
    times. So ``select`` changes nothing, and prompts in flight (``excluded``) keep their turn.
    """

    def __init__(self, table: PromptTable, run_seed: int) -> None:
        self._table = table
        self._run_seed = run_seed
        self._index = PromptIndex(table)
        self._reuse = ReuseCounter(table.num_pool)

    def select(self, request: SelectionRequest) -> Selection:
        rows = self._due(self._index.free(request.excluded), request.num_prompts)
        prompt_ids = tuple(self._table.prompt_ids[row] for row in rows)
        return unpredicted_selection(request, prompt_ids, SlotKind.RANDOM, num_candidates=self._table.num_pool)

    def _due(self, free: BoolArray, num_prompts: int) -> IntArray:
        """The next rows of this epoch that are free, going on into the next epoch where this one has too few."""
        counts = self._reuse.counts
        parts: list[IntArray] = []
        num_missing = num_prompts
        for epoch in range(int(counts.min()), int(counts.max()) + 2):
            order = generator(self._run_seed, "selector/uniform", epoch).permutation(len(counts))
            part = order[(free & (counts <= epoch))[order]][:num_missing]
            parts.append(part)
            free[part] = False
            num_missing -= len(part)
            if num_missing == 0:
                break
        return np.concatenate(parts)

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
