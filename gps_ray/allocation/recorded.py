"""Recorded outcomes to allocate on: a Parquet table of prompts with how many of how many tries were right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.errors import DataError
from gps_ray.types import IntArray

__all__ = ["RecordedOutcomes", "read_recorded", "write_recorded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedOutcomes:
    """prompts [N], all different; num_right, num_tried [N] int64 with 0 <= num_right <= num_tried > 0."""

    prompts: tuple[str, ...]
    num_right: IntArray
    num_tried: IntArray

    def take(self, rows: IntArray) -> RecordedOutcomes:
        """The outcomes of some rows [K]."""
        prompts = tuple(self.prompts[row] for row in rows)
        return RecordedOutcomes(prompts=prompts, num_right=self.num_right[rows], num_tried=self.num_tried[rows])


def read_recorded(file: Path) -> RecordedOutcomes:
    """Columns prompt (string), successes (int), rollouts (int); rows of the same prompt are added up.

    Raises DataError that names the file and what is wrong with it.
    """
    try:
        table = pq.read_table(file, columns=["prompt", "successes", "rollouts"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file}: expected a Parquet file with columns prompt, successes, rollouts ({str(error).splitlines()[0]})"
        ) from error
    missing = {"prompt", "successes", "rollouts"} - set(table.column_names)
    if missing:
        raise DataError(f"{file}: no column {', '.join(sorted(missing))}; expected prompt, successes, rollouts")
    for name, fits in (("prompt", _is_text), ("successes", pa.types.is_integer), ("rollouts", pa.types.is_integer)):
        if not fits(table.schema.field(name).type) or table[name].null_count:
            wanted = "strings" if name == "prompt" else "integers"
            raise DataError(f"{file}: column {name} must hold {wanted} without gaps, got {table[name].type}")
    row_of: dict[str, int] = {}
    rows = np.array([row_of.setdefault(prompt, len(row_of)) for prompt in table["prompt"].to_pylist()], dtype=np.int64)
    successes, rollouts = (table[name].to_numpy().astype(np.int64) for name in ("successes", "rollouts"))
    wrong = np.flatnonzero((successes < 0) | (rollouts < 1) | (successes > rollouts))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(f"{file}: row {at} has {successes[at]} successes of {rollouts[at]} rollouts")
    num_right, num_tried = np.zeros(len(row_of), np.int64), np.zeros(len(row_of), np.int64)
    np.add.at(num_right, rows, successes)
    np.add.at(num_tried, rows, rollouts)
    return RecordedOutcomes(prompts=tuple(row_of), num_right=num_right, num_tried=num_tried)


def write_recorded(recorded: RecordedOutcomes, file: Path) -> None:
    """The table that ``read_recorded`` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {"prompt": list(recorded.prompts), "successes": recorded.num_right, "rollouts": recorded.num_tried}
    pq.write_table(pa.table(columns), file)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
