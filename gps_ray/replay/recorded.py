"""Recorded outcomes over time, and which prompts two tables share."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.allocation.recorded import RecordedOutcomes
from gps_ray.errors import DataError
from gps_ray.types import IntArray

__all__ = ["NUM_POINTS", "RecordedSeries", "normalised_text", "read_series", "without_overlap"]

# Points in time that are replayed where the file has them.
NUM_POINTS = 44

_COLUMNS = ("prompt", "successes", "rollouts_per_point")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSeries:
    """prompts [N]; num_right [N, T] of num_tried [N] rollouts at each of T points in time, while a policy trained."""

    prompts: tuple[str, ...]
    num_right: IntArray
    num_tried: IntArray

    @property
    def group_size(self) -> int:
        """G: the most frequent number of rollouts per point."""
        return int(np.bincount(self.num_tried).argmax())


def read_series(file: Path) -> RecordedSeries:
    """Columns prompt (string), successes (list of int over time), rollouts_per_point (int); other columns are ignored.

    The first ``NUM_POINTS`` points in time, fewer where a prompt has fewer. Raises DataError that names the file and
    what is wrong with it.
    """
    table = _read(file)
    prompts = table["prompt"].to_pylist()
    num_tried = table["rollouts_per_point"].to_numpy().astype(np.int64)
    lengths = np.array([len(row) for row in table["successes"]], dtype=np.int64)
    if not len(prompts) or lengths.min() < 2:
        found = f"a prompt with {lengths.min()}" if len(prompts) else "no prompt"
        raise DataError(f"{file}: expected prompts with at least 2 points in time, got {found}")
    num_points = min(NUM_POINTS, int(lengths.min()))
    rows = [row[:num_points] for row in table["successes"].to_pylist()]
    if any(value is None for row in rows for value in row):
        raise DataError(f"{file}: column successes has gaps inside its lists; fill them or leave those prompts out")
    num_right = np.array(rows, dtype=np.int64)
    wrong = np.flatnonzero((num_right < 0).any(axis=1) | (num_right.max(axis=1) > num_tried) | (num_tried < 1))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(
            f"{file}: row {at} has successes {num_right[at].tolist()} of {num_tried[at]} rollouts per point"
        )
    return RecordedSeries(prompts=tuple(prompts), num_right=num_right, num_tried=num_tried)


def _read(file: Path) -> pa.Table:
    expected = f"expected a Parquet file with columns {', '.join(_COLUMNS)}"
    try:
        schema = pq.read_schema(file)
        missing = [name for name in _COLUMNS if name not in schema.names]
        if missing:
            raise DataError(f"{file}: no column {', '.join(missing)}; {expected}")
        table = pq.read_table(file, columns=list(_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: {expected} ({str(error).splitlines()[0]})") from error
    successes = table.schema.field("successes").type
    is_list = pa.types.is_list(successes) or pa.types.is_large_list(successes)
    kinds = {
        "prompt": pa.types.is_string(table.schema.field("prompt").type)
        or pa.types.is_large_string(table.schema.field("prompt").type),
        "successes": is_list and pa.types.is_integer(successes.value_type),
        "rollouts_per_point": pa.types.is_integer(table.schema.field("rollouts_per_point").type),
    }
    for name, wanted in zip(_COLUMNS, ("strings", "lists of integers", "integers"), strict=True):
        if not kinds[name] or table[name].null_count:
            raise DataError(f"{file}: column {name} must hold {wanted} without gaps, got {table[name].type}")
    return table


def normalised_text(text: str) -> str:
    """Letters and digits only, in one case (NFKC): what two copies of a prompt have in common."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def without_overlap(recorded: RecordedOutcomes, prompts: Iterable[str]) -> RecordedOutcomes:
    """The outcomes of all prompts whose normalised text is not among ``prompts``."""
    known = {normalised_text(prompt) for prompt in prompts}
    kept = [row for row, prompt in enumerate(recorded.prompts) if normalised_text(prompt) not in known]
    return recorded.take(np.array(kept, dtype=np.int64))
