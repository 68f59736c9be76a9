"""The baseline that predicts nothing: an epoch shuffle without replacement."""

from __future__ import annotations

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import BoolArray, IntArray, Selection, SelectionRequest, SlotKind
from gps_ray.predictor.interface import PromptTable
from gps_ray.selection.counting import CountingSelector

__all__ = ["UniformSelector"]


class UniformSelector(CountingSelector):
    """Goes through the pool in a fresh random order per epoch, keyed by (run_seed, epoch).

    All state is how often each prompt has been observed: a prompt is due in epoch e while it was observed at most e
    times. So ``select`` changes nothing, and prompts in flight (``excluded``) keep their turn.
    """

    def __init__(self, table: PromptTable, run_seed: int) -> None:
        super().__init__(table)
        self._run_seed = run_seed

    def select(self, request: SelectionRequest) -> Selection:
        rows = self._due(self.index.free(request.excluded), request.num_prompts)
        return self.chosen(request, rows, self.table.num_pool, SlotKind.RANDOM)

    def _due(self, free: BoolArray, num_prompts: int) -> IntArray:
        """The next rows of this epoch that are free, going on into the next epoch where this one has too few."""
        counts = self.reuse.counts
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
