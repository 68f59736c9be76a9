"""Your own selector: a curriculum that takes the shortest of the least used prompts. Copy this file and change it.

    python -m examples.own_selector

uses it as a library, and then in a run of two steps in ``runs/own_selector``, on the simulated engine: success rates
that are known and drift, no language model. Further arguments are those of ``python -m jobs.train``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import gps_ray
from gps_ray.base.types import BoolArray, IntArray, Selection, SelectionRequest, SlotKind, State
from gps_ray.config import SelectionConfig
from gps_ray.predictor.history import PromptIndex, ReuseCounter
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.interface import unpredicted_selection
from jobs import train
from jobs.cli import run_job


class ShortestFirst:
    """``longest`` turns it round: selection.options.longest=true."""

    def __init__(
        self, config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int, *, longest: bool = False
    ) -> None:
        lengths = np.array([len(text) for text in table.texts[: table.num_pool]])
        self._order = np.argsort(-lengths if longest else lengths, kind="stable")
        self._index, self._reuse = PromptIndex(table), ReuseCounter(table.num_pool)

    def select(self, request: SelectionRequest) -> Selection:
        free = self._order[self._index.free(request.excluded)[self._order]]
        rows = free[np.argsort(self._reuse.counts[free], kind="stable")][: request.num_prompts]
        prompt_ids = tuple(self._index.table.prompt_ids[row] for row in rows)
        return unpredicted_selection(request, prompt_ids, SlotKind.CHOSEN, num_candidates=len(free))

    def observe(self, batch: OutcomeBatch) -> None:
        self._reuse.observe(batch.rows)

    def predict(self, rows: IntArray, step: int) -> None:
        return None

    def seen(self, rows: IntArray) -> BoolArray:
        return self._reuse.seen(rows)

    def metrics(self) -> dict[str, float]:
        return self._reuse.metrics()

    def state(self) -> State:
        return self._reuse.state()

    def load_state(self, state: State) -> None:
        self._reuse.load_state(state)


def as_a_library() -> list[str]:
    """Two batches of two prompts: the shortest first, then the others."""
    prompts = ["What is 1 + 1 ?", "What is 23 + 45 + 67 + 89 ?", "What is 8 + 9 ?", "What is 12 + 34 + 56 ?"]
    selector = gps_ray.Selector(prompts, "examples.own_selector:ShortestFirst")
    chosen: list[str] = []
    for _step in range(2):
        rows = selector.next(2)
        selector.update(rows, num_right=1, num_tried=8)
        chosen += [prompts[row] for row in rows]
    return chosen


def main(argv: Sequence[str]) -> int:
    print("chosen:", *as_a_library(), sep="\n  ", flush=True)
    return train.main(
        [
            "selection.selector=examples.own_selector:ShortestFirst",
            "rollout.engine=simulated",
            "evaluation.num_probe_prompts=0",
            "run.directory=runs/own_selector",
            "run.num_steps=2",
            *argv,
        ]
    )


if __name__ == "__main__":
    run_job(main)
