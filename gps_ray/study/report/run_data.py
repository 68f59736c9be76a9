"""Reads a run folder into plain arrays for figures and tables.

A run may be young, killed, resumed or without a predictor: whatever is absent or cut off is left out and said in
``notes``, so that a report can always be made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gps_ray.base.errors import DataError
from gps_ray.base.json_files import parse_json
from gps_ray.base.types import BoolArray, FloatArray, IntArray, RolloutStatus, SlotKind
from gps_ray.base.useful import is_useful
from gps_ray.run.folder import RunFolder
from gps_ray.run.metrics import COST_CPU_S, COST_ROLLOUTS, COST_TOKENS, COST_WALL_S, STEP, read_metrics
from gps_ray.run.segments import read_segments

__all__ = ["GroupTable", "ProbeTable", "ReadFiles", "RunData", "SampleRow", "read_run"]

_COSTS = (COST_ROLLOUTS, COST_TOKENS, COST_CPU_S, COST_WALL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """Every group rolled out, by step: step, round, slot, num_right, num_tried, random_slot [R]; prompt_id, level [R]
    objects; mean_reward, mean_length (tokens) [R]; predicted_mean, predicted_std, expected_useful, text_mean [R] (NaN
    where nothing was predicted); num_steps_observed [R]: steps whose outcomes the selection knew, -1 where the run does
    not say."""

    step: IntArray
    round: IntArray
    slot: IntArray
    prompt_id: Any
    level: Any
    num_right: IntArray
    num_tried: IntArray
    mean_reward: FloatArray
    mean_length: FloatArray
    random_slot: BoolArray
    predicted_mean: FloatArray
    predicted_std: FloatArray
    expected_useful: FloatArray
    text_mean: FloatArray
    num_steps_observed: IntArray

    def at(self, rows: BoolArray) -> GroupTable:
        return _rows_of(self, rows)

    @property
    def useful(self) -> BoolArray:
        """[R] bool."""
        return is_useful(self.num_right, self.num_tried)

    @property
    def num_unique_prompts(self) -> int:
        return len(set(self.prompt_id))

    def useful_share(self, among: BoolArray | None = None) -> float | None:
        """Useful groups of those groups (null: of all), None where there is no group."""
        useful = self.useful if among is None else self.useful[among]
        return float(np.mean(useful)) if len(useful) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTable:
    """Probe measurements: step, num_right, num_tried, seen [R]; probe, level [R] objects; predicted_mean [R]."""

    step: IntArray
    probe: Any
    level: Any
    num_right: IntArray
    num_tried: IntArray
    seen: BoolArray
    predicted_mean: FloatArray

    def at(self, rows: BoolArray) -> ProbeTable:
        return _rows_of(self, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One readable response."""

    step: int
    prompt_id: str
    prompt_text: str
    response_text: str
    reward: float
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """A run folder in memory. ``metrics`` are the lines of metrics.jsonl by ascending step."""

    name: str
    config: Mapping[str, Any]
    config_text: str
    metrics: Sequence[Mapping[str, float]]
    num_pool_prompts: int
    groups: GroupTable
    probes: ProbeTable
    samples: Sequence[SampleRow]
    verifier_notes: Sequence[tuple[int, str]]
    notes: Sequence[str]
    first_prompt: tuple[str, int] | None = None
    """The first prompt as the policy reads it, and its tokens; None in runs that did not write it down."""

    @property
    def num_steps_done(self) -> int:
        return int(self.metrics[-1][STEP]) if self.metrics else 0

    @property
    def num_steps_planned(self) -> int:
        """``run.num_steps`` of the config; 0 where it is not known."""
        value = self.setting("run", "num_steps")
        return value if isinstance(value, int) else 0

    def setting(self, section: str, key: str) -> Any:
        """A value of the config, None where it is not there."""
        values = self.config.get(section)
        return values.get(key) if isinstance(values, dict) else None

    def series(self, name: str, axis: str = STEP) -> tuple[FloatArray, FloatArray]:
        """(x [E], y [E]) over the lines that have both. Costs are 0 at step 0, before anything was rolled out."""
        x: list[float] = []
        y: list[float] = []
        for row in self.metrics:
            at = row.get(axis, 0.0 if row[STEP] == 0 and axis in _COSTS else None)
            if name in row and at is not None:
                x.append(at)
                y.append(row[name])
        return np.array(x, np.float64), np.array(y, np.float64)

    def last(self, name: str) -> float | None:
        """The newest value of a metric, None where it was never written."""
        return next((row[name] for row in reversed(self.metrics) if name in row), None)

    def names(self, prefix: str) -> list[str]:
        """Metric names that begin with ``prefix``, sorted."""
        return sorted({name for row in self.metrics for name in row if name.startswith(prefix)})


class ReadFiles:
    """Parquet files that were read before, for whoever reads a growing folder again and again: a file that has the size
    and time of the one that was read is not read anew."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Path, tuple[str, ...]], tuple[tuple[int, int], pa.Table]] = {}

    def read(self, path: Path, columns: Sequence[str] = ()) -> pa.Table:
        """These columns, or all. Raises OSError, ValueError or ArrowException where it cannot be read."""
        found, key = path.stat(), (path, tuple(columns))
        sign = (found.st_mtime_ns, found.st_size)
        if key not in self._tables or self._tables[key][0] != sign:
            self._tables[key] = (sign, pq.read_table(path, columns=list(columns) or None))
        return self._tables[key][1]


def read_run(directory: Path, files: ReadFiles | None = None) -> RunData:
    """Read what a run folder holds; ``files`` remembers what was read. Raises DataError where the folder is not one of
    a run, CheckpointError where a file's place is taken by what could not be read to an end."""
    files = files or ReadFiles()
    if not (directory / "metrics.jsonl").is_file() and not (directory / "config.yaml").is_file():
        raise DataError(
            f"{directory}: expected a run folder with config.yaml and metrics.jsonl, found neither; "
            "give the folder that run.directory names"
        )
    RunFolder(directory).check_kinds()
    notes: list[str] = []
    config_text, config = _read_config(directory / "config.yaml", notes)
    metrics: list[dict[str, float]] = []
    if (directory / "metrics.jsonl").is_file():
        metrics = read_metrics(directory / "metrics.jsonl")
    else:
        notes.append("no metrics.jsonl yet")
    levels, num_pool = _read_prompts(directory / "prompts.parquet", files, notes)
    return RunData(
        name=directory.resolve().name,
        config=config,
        config_text=config_text,
        metrics=metrics,
        num_pool_prompts=num_pool,
        groups=_groups(_read_tables(directory, "outcomes", notes), levels),
        probes=_probes(_read_tables(directory, "probes", notes)),
        samples=_read_samples(directory / "rollouts.jsonl", notes),
        verifier_notes=_read_verifier_notes(directory / "verifier_notes.jsonl", notes),
        notes=notes,
        first_prompt=_read_first_prompt(directory / "first_prompt.json"),
    )


def _read_first_prompt(path: Path) -> tuple[str, int] | None:
    try:
        shown = parse_json(path.read_text())
        return str(shown["text"]), int(shown["num_tokens"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _read_config(path: Path, notes: list[str]) -> tuple[str, Mapping[str, Any]]:
    try:
        text = path.read_text(errors="replace")
        tree = yaml.safe_load(text)
    except (OSError, yaml.YAMLError):
        notes.append(f"{path.name} is absent or unreadable")
        return "", {}
    return text, tree if isinstance(tree, dict) else {}


def _read_prompts(path: Path, files: ReadFiles, notes: list[str]) -> tuple[dict[str, str], int]:
    """Level by prompt id, and the size of the pool."""
    try:
        table = files.read(path, ["prompt_id", "level", "split"])
    except (OSError, pa.ArrowException, ValueError):
        notes.append(f"{path.name} is absent or unreadable: prompts have no level")
        return {}, 0
    columns = [table[name].to_pylist() for name in ("prompt_id", "level", "split")]
    levels = {prompt_id: level or "" for prompt_id, level, _ in zip(*columns, strict=True)}
    return levels, sum(split == "pool" for split in columns[2])


def _read_tables(directory: Path, kind: str, notes: list[str]) -> pa.Table | None:
    segments = list(read_segments(directory / kind))
    damaged = [segment.path.name for segment in segments if segment.damage]
    if damaged:
        notes.append(
            f"{len(damaged)} files of {kind}/ are lost, cut off or damaged (what can be read of them is shown), the "
            f"first {damaged[0]}"
        )
    tables = [segment.table for segment in segments if segment.table is not None]
    return pa.concat_tables(tables, promote_options="default") if tables else None


def _read_verifier_notes(path: Path, notes: list[str]) -> list[tuple[int, str]]:
    """(step, note as JSON)."""
    rows: list[tuple[int, str]] = []
    num_bad = 0
    for line in filter(None, path.read_text().split("\n") if path.is_file() else ()):
        try:
            raw = parse_json(line)
            rows.append((int(raw["step"]), json.dumps(raw["note"], ensure_ascii=False)))
        except (ValueError, TypeError, KeyError, OverflowError):
            num_bad += 1
    if num_bad:
        notes.append(f"{num_bad} lines of {path.name} are not readable (cut off?)")
    return rows


def _read_samples(path: Path, notes: list[str]) -> list[SampleRow]:
    rows: list[SampleRow] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return rows
    num_bad = 0
    for line in filter(None, lines):
        try:
            raw = parse_json(line)
            rows.append(
                SampleRow(
                    step=int(raw["step"]),
                    prompt_id=str(raw["prompt_id"]),
                    prompt_text=str(raw["prompt_text"]),
                    response_text=str(raw["response_text"]),
                    reward=float(raw["reward"]),
                    status=str(raw["status"]),
                )
            )
        except (ValueError, TypeError, KeyError, OverflowError):
            num_bad += 1
    if num_bad:
        notes.append(f"{num_bad} lines of {path.name} are not readable (cut off?)")
    return rows


def _column(table: pa.Table, name: str, dtype: Any, default: Any) -> Any:
    """A column as numpy, or ``default`` in every row where the run does not write it (an older version)."""
    if name not in table.column_names:
        return np.full(table.num_rows, default, dtype)
    values = table[name].to_pylist()
    return np.array([default if value is None else value for value in values], dtype)


_Table = TypeVar("_Table", GroupTable, ProbeTable)


def _rows_of(table: _Table, rows: BoolArray | IntArray) -> _Table:
    """The same table with these rows of every column."""
    return replace(table, **{column.name: getattr(table, column.name)[rows] for column in fields(table)})


def _groups(table: pa.Table | None, levels: Mapping[str, str]) -> GroupTable:
    if table is None:
        table = pa.table({"prompt_id": [], "status": [], "rewards": [], "step": []})
    status, of = _ragged(table, "status")
    ids = _column(table, "prompt_id", object, "")
    order = np.argsort(_column(table, "step", np.int64, 0), kind="stable")
    num_groups = table.num_rows
    unsorted = GroupTable(
        step=_column(table, "step", np.int64, 0),
        round=_column(table, "round", np.int64, 0),
        slot=_column(table, "slot", np.int64, 0),
        prompt_id=ids,
        level=np.array([levels.get(prompt_id, "") for prompt_id in ids], object),
        num_right=np.bincount(of[status == RolloutStatus.RIGHT], minlength=num_groups),
        num_tried=np.bincount(of[status != RolloutStatus.FAILED], minlength=num_groups),
        mean_reward=_mean_of(table, "rewards"),
        mean_length=_mean_of(table, "response_lengths"),
        random_slot=_column(table, "slot_kind", np.int64, SlotKind.CHOSEN) == SlotKind.RANDOM,
        predicted_mean=_column(table, "predicted_mean", np.float64, np.nan),
        predicted_std=_column(table, "predicted_std", np.float64, np.nan),
        expected_useful=_column(table, "expected_useful", np.float64, np.nan),
        text_mean=_column(table, "text_mean", np.float64, np.nan),
        num_steps_observed=_column(table, "num_steps_observed", np.int64, -1),
    )
    return _rows_of(unsorted, order)


def _ragged(table: pa.Table, name: str) -> tuple[FloatArray, IntArray]:
    """A column of lists as its values one after the other [V], and the row that each is of [V]."""
    lists = table[name].to_pylist() if name in table.column_names else [[]] * table.num_rows
    sizes = [len(row) for row in lists]
    values = np.array([value for row in lists for value in row], np.float64)
    return values, np.repeat(np.arange(len(lists)), sizes)


def _mean_of(table: pa.Table, name: str) -> FloatArray:
    """[R]: the mean of each list, NaN of an empty one."""
    values, of = _ragged(table, name)
    count = np.bincount(of, minlength=table.num_rows)
    total = np.bincount(of, weights=values, minlength=table.num_rows)
    return np.divide(total, count, out=np.full(table.num_rows, np.nan), where=count > 0)


def _probes(table: pa.Table | None) -> ProbeTable:
    if table is None:
        table = pa.table({"step": []})
    rows = ProbeTable(
        step=_column(table, "step", np.int64, 0),
        probe=_column(table, "probe", object, ""),
        level=_column(table, "level", object, ""),
        num_right=_column(table, "num_right", np.int64, 0),
        num_tried=_column(table, "num_tried", np.int64, 0),
        seen=_column(table, "seen", bool, False),
        predicted_mean=_column(table, "predicted_mean", np.float64, np.nan),
    )
    return rows.at(rows.num_tried > 0)
