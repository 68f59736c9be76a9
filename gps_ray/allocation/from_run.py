"""The predictor that a finished run has trained, asked about prompts that the run has never seen.

The run's outcome files are replayed into a fresh predictor over the pool and the new prompts: the same updates in the
same order as in the run, and no limit on how many prompts may be asked about.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gps_ray.allocation.comparison import AllocationSettings, Comparison, compare_allocators
from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.tables import OUTCOMES, outcomes_from_table
from gps_ray.base.types import IntArray, Prompt
from gps_ray.config import SelectionConfig
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.interface import Predictor
from gps_ray.predictor.prompt_features import build_prompt_table
from gps_ray.predictor.recorded import RecordedOutcomes
from gps_ray.selection.registry import build_predictor, resolve_selection

__all__ = ["compare_on_run", "fully_judged"]


def compare_on_run(
    pool: Sequence[Prompt],
    prompts: Sequence[Prompt],
    outcomes: pa.Table,
    recorded: RecordedOutcomes,
    selection: SelectionConfig,
    settings: AllocationSettings,
    run_seed: int,
    group_size: int,
) -> Comparison:
    """Half of ``prompts`` (drawn by ``run_seed``) fits the bins, the other half is allocated over.

    ``outcomes`` are the run's outcome files (``read_outcomes``); ``recorded`` holds what the final policy makes of
    ``prompts``, in their order.
    """
    table = build_prompt_table(pool, prompts, selection.features)
    if len(table.prompt_ids) != len(pool) + len(prompts):
        raise DataError("prompts to allocate over must lie outside the pool and differ; use the evaluation set")
    predictor = build_predictor(resolve_selection(selection), table, group_size, run_seed)
    num_steps = _replay(predictor, PromptIndex(table), outcomes)
    order = generator(run_seed, "allocation/halves").permutation(len(prompts))
    fitted, spent = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])

    def rows(places: IntArray) -> IntArray:
        return len(pool) + places

    return compare_allocators(
        fitted_on=recorded.take(fitted),
        fitted_mean=np.asarray(predictor.predict(rows(fitted), num_steps + 1).mean(), dtype=np.float64),
        spent_on=recorded.take(spent),
        posterior=predictor.predict(rows(spent), num_steps + 1),
        settings=settings,
        seed=run_seed,
    )


def fully_judged(recorded: RecordedOutcomes, num_samples: int) -> IntArray:
    """Rows [K] of the prompts all of whose samples have a verdict: of the others nobody can say what so many solve.

    Raises DataError where fewer than two are left: half fits the bins, half is allocated over.
    """
    kept = np.flatnonzero(recorded.num_tried >= num_samples)
    if len(kept) < 2:
        raise DataError(
            f"--run: {len(kept)} of {len(recorded.prompts)} prompts have a verdict on each of their {num_samples} "
            "samples, expected two at least; raise rollout.verify_deadline_s of the run's config, or mend its verifier"
        )
    return kept


def _replay(predictor: Predictor, index: PromptIndex, outcomes: pa.Table) -> int:
    """Show the predictor every step's outcomes in order; returns the last step."""
    steps = sorted(pc.unique(outcomes["step"]).to_pylist())
    for step in steps:
        groups = outcomes.filter(pc.equal(outcomes["step"], step)).select(OUTCOMES.names).combine_chunks()
        predictor.observe(index.outcome_batch(step, outcomes_from_table(groups)))
    return steps[-1] if steps else 0
