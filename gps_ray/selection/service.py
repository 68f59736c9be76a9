"""A selector as a run uses it: prompt ids in, outcomes as tables, outcomes on disk, state in a folder.

Plain and synchronous. The selector actor adds only the process, the tests' in-process port only ``async``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError

from gps_ray.base.states import below, load_state_file, nested, save_state_file
from gps_ray.base.storage import writing
from gps_ray.base.tables import outcomes_from_table
from gps_ray.base.types import ObserveResult, PosteriorMoments, Selection, SelectionRequest
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.interface import PromptTable
from gps_ray.run.outcomes import write_outcomes
from gps_ray.run.segments import Segments
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.lengths import KnownLengths

__all__ = ["SelectorService"]

STATE_FILE = "selector.safetensors"


class SelectorService:
    """``outcome_directory`` receives every group of every step, kept by admission or not."""

    def __init__(self, selector: PromptSelector, table: PromptTable, outcome_directory: Path) -> None:
        self._selector = selector
        self._index = PromptIndex(table)
        self._segments = Segments(outcome_directory)
        self._lengths = KnownLengths(selector, len(table.prompt_ids))
        self._steps_observed = 0

    def select(self, request: SelectionRequest) -> Selection:
        """The selector's choice, with the CPU-seconds it took in this process, the steps that it knew of and the
        lengths to be expected."""
        start = time.process_time()
        selection = self._selector.select(request)
        expected_lengths = self._lengths.expected_lengths(self._index.rows(selection.prompt_ids))
        return replace(
            selection,
            cpu_s=time.process_time() - start,
            num_steps_observed=self._steps_observed,
            expected_lengths=expected_lengths,
        )

    def observe(self, step: int, selections: Sequence[Selection], tables: Sequence[pa.Table]) -> ObserveResult:
        """Learn from the groups in the order of ``tables`` (that of the selection) and write them to disk."""
        start = time.process_time()
        outcomes = [outcome for table in tables for outcome in outcomes_from_table(table)]
        batch = self._index.outcome_batch(step, outcomes)
        self._selector.observe(batch)
        self._lengths.observe(batch)
        cpu_s = time.process_time() - start
        file = write_outcomes(self._segments, step, outcomes, selections)
        self._steps_observed = step
        metrics = {
            name if name.startswith("predictor/") else f"selection/{name}": value
            for name, value in self._selector.metrics().items()
        }
        return ObserveResult(metrics=metrics, cpu_s=cpu_s, outcome_file=file)

    def predict(self, prompt_ids: Sequence[str]) -> PosteriorMoments | None:
        """The posterior before the next step's outcomes; None where the selector predicts nothing."""
        start = time.process_time()
        rows = self._index.rows(prompt_ids)
        posterior = self._selector.predict(rows, self._steps_observed + 1)
        if posterior is None:
            return None
        return PosteriorMoments(
            mean=np.asarray(posterior.mean(), dtype=np.float64),
            std=np.sqrt(np.asarray(posterior.variance(), dtype=np.float64)),
            seen=self._selector.seen(rows),
            cpu_s=time.process_time() - start,
        )

    def save(self, directory: Path) -> None:
        with writing(directory):
            directory.mkdir(exist_ok=True)
        own = {"steps_observed": np.array(self._steps_observed), **nested("lengths", self._lengths.state())}
        with writing(directory / STATE_FILE, SafetensorError):
            save_state_file({**self._selector.state(), **nested("service", own)}, directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        state = load_state_file(directory / STATE_FILE)
        own = below("service", state)
        self._steps_observed = int(own["steps_observed"])
        self._lengths.load_state(below("lengths", own))
        self._selector.load_state({name: array for name, array in state.items() if not name.startswith("service/")})
