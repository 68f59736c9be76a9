"""Recorded outcomes: Parquet tables of prompts with how many of how many rollouts were right, once or over time."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gps_ray.base.errors import DataError, one_line
from gps_ray.base.keyed_random import seed_64
from gps_ray.base.types import BoolArray, IntArray
from gps_ray.predictor.interface import OutcomeBatch, Predictor

__all__ = [
    "HELD_OUT_SHARE",
    "NUM_POINTS",
    "RecordedOutcomes",
    "RecordedSeries",
    "added_up",
    "held_out",
    "normalised_text",
    "outcome_batch",
    "read_prompts",
    "read_recorded",
    "read_series",
    "teach",
    "without_overlap",
    "write_recorded",
]

# Points in time that are read where the file has them.
NUM_POINTS = 44

HELD_OUT_SHARE = 0.2

# Labels are shown to a predictor as so many groups per step, as a run would.
_LABELS_PER_STEP = 256


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


def read_prompts(file: Path) -> tuple[str, ...]:
    """Column prompt (string), in the file's order; other columns are ignored. Raises DataError."""
    return tuple(_read(file, {"prompt": "strings"})["prompt"].to_pylist())


def read_recorded(file: Path) -> RecordedOutcomes:
    """Columns prompt (string), successes (int), rollouts (int); rows of the same prompt are added up.

    Raises DataError that names the file and what is wrong with it.
    """
    table = _read(file, {"prompt": "strings", "successes": "integers", "rollouts": "integers"})
    successes, rollouts = (table[name].to_numpy().astype(np.int64) for name in ("successes", "rollouts"))
    wrong = np.flatnonzero((successes < 0) | (rollouts < 1) | (successes > rollouts))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(f"{file}: row {at} has {successes[at]} successes of {rollouts[at]} rollouts")
    return added_up(zip(table["prompt"].to_pylist(), successes.tolist(), rollouts.tolist(), strict=True))


def added_up(rows: Iterable[tuple[str, int, int]]) -> RecordedOutcomes:
    """(prompt, successes, rollouts) with the counts of equal prompts added up, in the order of their first rows."""
    counts: dict[str, tuple[int, int]] = {}
    for prompt, num_right, num_tried in rows:
        right, tried = counts.get(prompt, (0, 0))
        counts[prompt] = (right + num_right, tried + num_tried)
    table = np.array(list(counts.values()), dtype=np.int64).reshape(-1, 2)
    return RecordedOutcomes(prompts=tuple(counts), num_right=table[:, 0], num_tried=table[:, 1])


def write_recorded(recorded: RecordedOutcomes, file: Path) -> None:
    """The table that ``read_recorded`` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {"prompt": list(recorded.prompts), "successes": recorded.num_right, "rollouts": recorded.num_tried}
    pq.write_table(pa.table(columns), file)


def read_series(file: Path) -> RecordedSeries:
    """Columns prompt (string), successes (list of int over time), rollouts_per_point (int); other columns are ignored.

    The first ``NUM_POINTS`` points in time, fewer where a prompt has fewer. Raises DataError that names the file and
    what is wrong with it.
    """
    table = _read(file, {"prompt": "strings", "successes": "lists of integers", "rollouts_per_point": "integers"})
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


def _read(file: Path, columns: Mapping[str, str]) -> pa.Table:
    """The columns (name -> what they hold), checked. Raises DataError."""
    expected = f"expected a Parquet file with columns {', '.join(columns)}"
    try:
        missing = [name for name in columns if name not in pq.read_schema(file).names]
        if missing:
            raise DataError(f"{file}: no column {', '.join(missing)}; {expected}")
        table = pq.read_table(file, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: {expected} ({one_line(error)})") from error
    for name, wanted in columns.items():
        if not _holds(table.schema.field(name).type, wanted) or table[name].null_count:
            raise DataError(f"{file}: column {name} must hold {wanted} without gaps, got {table[name].type}")
    return table


def _holds(kind: pa.DataType, wanted: str) -> bool:
    if wanted == "strings":
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if wanted == "lists of integers":
        return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _holds(kind.value_type, "integers")
    return bool(pa.types.is_integer(kind))


def normalised_text(text: str) -> str:
    """Letters and digits only, in one case (NFKC): what two copies of a prompt have in common."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def without_overlap(recorded: RecordedOutcomes, prompts: Iterable[str]) -> RecordedOutcomes:
    """The outcomes of all prompts whose normalised text is not among ``prompts``."""
    known = {normalised_text(prompt) for prompt in prompts}
    kept = [row for row, prompt in enumerate(recorded.prompts) if normalised_text(prompt) not in known]
    return recorded.take(np.array(kept, dtype=np.int64))


def held_out(texts: Sequence[str], stream: str, seed: int = 0) -> BoolArray:
    """[N]: a fifth of the texts, by a hash of (seed, stream, text): none depends on the others."""
    hashes = np.array([seed_64(seed, stream, prompt=text) for text in texts])
    mask: BoolArray = hashes < HELD_OUT_SHARE * 2**63
    return mask


def outcome_batch(step: int, rows: IntArray, num_right: IntArray, num_tried: IntArray) -> OutcomeBatch:
    """Recorded counts [K] of some rows [K] as a predictor observes them; nobody recorded the responses' lengths."""
    return OutcomeBatch(
        step=step,
        rows=rows,
        num_right=num_right.astype(np.int32),
        num_tried=num_tried.astype(np.int32),
        mean_response_length=np.full(len(rows), np.nan, dtype=np.float32),
    )


def teach(predictor: Predictor, recorded: RecordedOutcomes, rows: IntArray) -> int:
    """Show the predictor, whose table holds the prompts of ``recorded``, the outcomes of some rows [K] step by step.

    Returns the number of steps, which is the step to predict for next.
    """
    parts: list[IntArray] = np.array_split(rows, -(-len(rows) // _LABELS_PER_STEP))
    for step, part in enumerate(parts):
        predictor.observe(outcome_batch(step, part, recorded.num_right[part], recorded.num_tried[part]))
    return len(parts)
