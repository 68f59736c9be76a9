"""Your own selector: a curriculum that takes the shortest of the least used prompts. Copy this file and change it.

    python -m examples.own_selector

uses it as a library, and then in a run of two steps in ``runs/own_selector``, on the simulated engine: success rates
that are known and drift, no language model. Further arguments are those of ``python -m jobs.train``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import gps_ray
from gps_ray.base.types import Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.selection.counting import CountingSelector
from jobs import train
from jobs.cli import run_job


class ShortestFirst(CountingSelector):
    """``longest`` turns it round: selection.options.longest=true."""

    def __init__(
        self, config: SelectionConfig, table: PromptTable, group_size: int, run_seed: int, *, longest: bool = False
    ) -> None:
        super().__init__(table)
        lengths = np.array([len(text) for text in table.texts[: table.num_pool]])
        self.order = np.argsort(-lengths if longest else lengths, kind="stable")

    def select(self, request: SelectionRequest) -> Selection:
        free = self.order[self.index.free(request.excluded)[self.order]]
        rows = free[np.argsort(self.reuse.counts[free], kind="stable")][: request.num_prompts]
        return self.chosen(request, rows, num_candidates=len(free))


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
