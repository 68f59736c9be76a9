"""The outcomes of a run: what was chosen in each step and why, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from gps_ray.base.errors import DataError
from gps_ray.base.tables import OUTCOMES, outcomes_to_table
from gps_ray.base.types import FloatArray, GroupOutcome, Selection
from gps_ray.run.segments import Segments, read_segments

__all__ = ["OUTCOME_FILE", "REASONS", "read_outcomes", "write_outcomes"]

# One row per group: OUTCOMES, and the slot of the selection that it filled (predictions NaN where there were none).
OUTCOME_FILE = pa.schema(
    [
        *OUTCOMES,
        ("step", pa.int32()),
        ("round", pa.int32()),
        ("slot", pa.int32()),
        ("slot_kind", pa.int8()),
        ("predicted_mean", pa.float64()),
        ("predicted_std", pa.float64()),
        ("num_candidates", pa.int64()),
    ]
)

# Why the prompt was picked, as ``Selection`` says it: for people. Files of earlier versions do not have these.
REASONS = pa.schema(
    [("expected_useful", pa.float64()), ("text_mean", pa.float64()), ("num_steps_observed", pa.int32())]
)


def write_outcomes(
    segments: Segments, step: int, outcomes: Sequence[GroupOutcome], selections: Sequence[Selection]
) -> str:
    """Append the step's groups and return the name of the file that has them.

    ``selections`` are the rounds of the step; each outcome belongs to exactly one of their slots. Slots whose group
    could not be made have no row. Raises DataError for an outcome that no selection asked for.
    """
    slots = {prompt_id: (s, slot) for s in selections for slot, prompt_id in enumerate(s.prompt_ids)}
    try:
        origin = [slots[outcome.prompt_id] for outcome in outcomes]
    except KeyError as error:
        raise DataError(
            f"outcomes of step {step}: expected prompts of its {len(selections)} selections, got {error.args[0]!r}"
        ) from error
    table = outcomes_to_table(outcomes)
    columns = {
        "step": [step] * len(origin),
        "round": [selection.round for selection, _ in origin],
        "slot": [slot for _, slot in origin],
        "slot_kind": [int(selection.slot_kind[slot]) for selection, slot in origin],
        "predicted_mean": [float(selection.predicted_mean[slot]) for selection, slot in origin],
        "predicted_std": [float(selection.predicted_std[slot]) for selection, slot in origin],
        "num_candidates": [selection.num_candidates for selection, _ in origin],
        "expected_useful": [_known(selection.expected_useful, slot) for selection, slot in origin],
        "text_mean": [_known(selection.text_mean, slot) for selection, slot in origin],
        "num_steps_observed": [selection.num_steps_observed for selection, _ in origin],
    }
    schema = pa.unify_schemas([OUTCOME_FILE, REASONS])
    for name, values in columns.items():
        table = table.append_column(schema.field(name), pa.array(values, schema.field(name).type))
    return segments.append(step, table)


def _known(values: FloatArray | None, slot: int) -> float:
    return float("nan") if values is None else float(values[slot])


def read_outcomes(directory: Path) -> pa.Table:
    """All outcomes of a run as one table, ordered by step, then as observed (no rows where there is no file).

    Raises DataError for a file that is cut off, damaged or lost, or has other columns.
    """
    tables = []
    for segment in read_segments(directory):
        damage = segment.damage
        if segment.table is not None and not damage:
            try:
                tables.append(segment.table.select(OUTCOME_FILE.names).cast(OUTCOME_FILE))
            except (pa.ArrowException, KeyError) as error:
                damage = str(error)
        if damage:
            raise DataError(
                f"{segment.path}: expected an outcome file with columns {', '.join(OUTCOME_FILE.names)}: {damage}; "
                "restore the file or resume the run, which cuts its files back to its checkpoint"
            )
    return pa.concat_tables(tables) if tables else OUTCOME_FILE.empty_table()
