"""The prompts of a run, generated or from files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import IntArray, Prompt
from gps_ray.config import DataConfig, SourceConfig
from gps_ray.tasks.identity import prompt_id
from gps_ray.tasks.interface import DataSets, Task
from gps_ray.tasks.pool_checks import check_disjoint, contradictions
from gps_ray.tasks.prompt_check import check_prompts
from gps_ray.tasks.prompt_files import SourceRow, write_prompts
from gps_ray.tasks.registry import load_prompt_generator, load_task
from gps_ray.tasks.sources import read_source

__all__ = [
    "DataSets",
    "PromptLimit",
    "load_data",
    "prompt_id",
    "read_data_files",
    "read_prompts",
    "short_enough",
    "write_prompts",
]

_LOG = logging.getLogger(__name__)


# How many tokens each of some prompts has as the policy reads it, and the most that are taken; see ``PromptLimit``.
_Lengths = Callable[[Sequence[Prompt]], IntArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLimit:
    """The longest prompt that a run takes, in tokens: of the pool and the probes, of the evaluation set, and of the
    evaluation suites by name.

    ``lengths`` gives the tokens [N] of prompts [N]; a value at or below all of these may be a bound.
    ``why`` says where the limit comes from.
    """

    pool: int
    evaluation: int
    lengths: _Lengths
    why: str
    suites: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    rows: tuple[SourceRow, ...] = ()
    num_duplicates: int = 0
    num_overlong: int = 0
    notes: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(row.prompt for row in self.rows)


def read_prompts(path: Path, *, config_key: str) -> tuple[Prompt, ...]:
    """The prompts of a Parquet file (columns: ``gps_ray.tasks.prompt_files``) in its order.

    Of rows with the same content the first is kept; how many were dropped is logged. Raises DataError, one line that
    names ``config_key``, for a file that is missing, truncated, empty or has other columns.
    """
    rows, num_duplicates = _distinct(read_source(SourceConfig(path=str(path)), config_key))
    for note in _duplicates_note(config_key, num_duplicates, len(rows)):
        _LOG.warning("%s", note)
    return tuple(row.prompt for row in rows)


def _distinct(rows: Sequence[SourceRow]) -> tuple[list[SourceRow], int]:
    first: dict[str, SourceRow] = {}
    for row in rows:
        first.setdefault(row.prompt.prompt_id, row)
    return list(first.values()), len(rows) - len(first)


def _duplicates_note(config_key: str, num_duplicates: int, num_kept: int) -> list[str]:
    if not num_duplicates:
        return []
    return [
        f"{config_key}: {num_duplicates} of {num_duplicates + num_kept} rows are duplicates; the first of each is kept"
    ]


def load_data(data: DataConfig, num_probe_prompts: int, limit: PromptLimit | None = None) -> DataSets:
    """The data sets of a run, the same for every run with the same data section and limit.

    From the sources of the data section where it names some, else made by the task; evaluation sources alone leave
    the pool empty. The pool probe is a random part of the pool, drawn without any run's seed, so that all runs of a
    comparison are measured on the same prompts. ``num_probe_prompts`` = 0 leaves both probes empty.

    Raises DataError for sources that cannot be used, or whose sets share prompts; ConfigError for a task that generates
    nothing, or a probe larger than the pool.
    """
    if data.has_sources:
        sets = read_data_files(data, load_task(data.task, data.task_options), limit)
    else:
        otherwise = "set data.pool_file and data.evaluation_file, or data.train and data.evaluation"
        sets = load_prompt_generator(data.task, data.task_options, otherwise).generate(data)
    if num_probe_prompts == 0 or not sets.pool:
        return replace(sets, pool_probe=(), heldout_probe=())
    if num_probe_prompts > len(sets.pool):
        raise ConfigError(
            f"evaluation.num_probe_prompts: a pool probe of {num_probe_prompts} does not fit a pool of "
            f"{len(sets.pool)}; lower evaluation.num_probe_prompts"
        )
    rows = generator(0, "data/pool_probe").choice(len(sets.pool), size=num_probe_prompts, replace=False)
    return replace(sets, pool_probe=tuple(sets.pool[row] for row in sorted(rows)))


def read_data_files(data: DataConfig, task: Task, limit: PromptLimit | None = None) -> DataSets:
    """Pool, evaluation set and held-out probe from the sources of the data section, without the pool probe.

    What was dropped or looks wrong is in ``notes``. ``task`` must be able to read every answer. Raises DataError as
    ``load_data`` does.
    """
    for_pool = None if limit is None else (limit.pool, limit)
    for_evaluation = None if limit is None else (limit.evaluation, limit)
    pool = _read_set(data.train_sources, data, task, for_pool)
    evaluation = _read_set(data.evaluation_sources, data, task, for_evaluation)
    heldout = _read_set(data.heldout_sources, data, task, for_pool)
    for other, sources in ((evaluation, data.evaluation_sources), (heldout, data.heldout_sources)):
        if other.rows and pool.rows:
            check_disjoint(pool.rows, other.rows, _key_of(data.train_sources), _key_of(sources))
    sets = (pool, evaluation, heldout)
    return DataSets(
        pool=pool.prompts,
        evaluation=evaluation.prompts,
        heldout_probe=heldout.prompts,
        num_duplicates=sum(one.num_duplicates for one in sets),
        num_overlong=sum(one.num_overlong for one in sets),
        notes=tuple(note for one in sets for note in one.notes),
    )


def _key_of(sources: Sequence[tuple[str, SourceConfig]]) -> str:
    """The config key of a whole set: data.train of data.train.0."""
    return ".".join(sources[0][0].split(".")[:2])


def _read_set(
    sources: Sequence[tuple[str, SourceConfig]], data: DataConfig, task: Task, limit: tuple[int, PromptLimit] | None
) -> _Set:
    if not sources:
        return _Set()
    default = "" if data.task == "by_source" else data.task
    parts: list[list[SourceRow]] = []
    notes: list[str] = []
    num_duplicates = num_overlong = 0
    for config_key, source in sources:
        read = read_source(source, config_key, default)
        rows, num_same = _distinct(read)
        check_prompts(task, [row.prompt for row in rows], config_key, source.path)
        notes += _duplicates_note(config_key, num_same, len(rows))
        num_duplicates += num_same
        if limit is not None:
            short, overlong = short_enough(rows, *limit, data, config_key)
            num_overlong += len(rows) - len(short)
            rows, notes = short, notes + overlong
        parts.append(_at_most(rows, source.max_prompts))
    if sources[0][1].weight is not None:
        parts = _proportioned(parts, [source.weight or 0.0 for _, source in sources])
    key = _key_of(sources)
    rows, num_same = _distinct([row for part in parts for row in part])
    notes += _duplicates_note(key, num_same, len(rows))
    if len(sources) > 1:
        counts = ", ".join(f"{len(part)} of {source.path}" for part, (_, source) in zip(parts, sources, strict=True))
        notes.append(f"{key}: {len(rows)} prompts, {counts}")
    notes += contradictions([row.prompt for row in rows], key)
    for note in notes:
        _LOG.warning("%s", note)
    return _Set(
        rows=tuple(rows), num_duplicates=num_duplicates + num_same, num_overlong=num_overlong, notes=tuple(notes)
    )


def short_enough(
    rows: list[SourceRow], longest: int, limit: PromptLimit, data: DataConfig, config_key: str
) -> tuple[list[SourceRow], list[str]]:
    """The rows that the model takes, and a line about the others where there are some. Raises DataError where no row is
    short enough, or ``data.overlong_prompts`` refuses the others."""
    lengths = limit.lengths([row.prompt for row in rows])
    overlong = np.flatnonzero(lengths > longest)
    if not len(overlong):
        return rows, []
    first = rows[overlong[0]].prompt
    what = (
        f"{config_key}: {len(overlong)} of {len(rows)} prompts are longer than {longest} tokens ({limit.why}), the "
        f"longest {int(lengths.max())} (the first: {first.text[:80]!r}, {int(lengths[overlong[0]])} tokens)"
    )
    if data.overlong_prompts == "refuse" or len(overlong) == len(rows):
        raise DataError(
            f"{what}; take them out, lower rollout.max_response_tokens, or set data.overlong_prompts=drop where some "
            "are short enough"
        )
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= longest]
    return kept, [f"{what}; they are dropped (data.overlong_prompts)"]


def _at_most(rows: list[SourceRow], num_rows: int | None) -> list[SourceRow]:
    """So many rows, chosen by their ids, so by content and not by their order, in the order of the source."""
    if num_rows is None or num_rows >= len(rows):
        return rows
    kept = set(sorted(row.prompt.prompt_id for row in rows)[:num_rows])
    return [row for row in rows if row.prompt.prompt_id in kept]


def _proportioned(parts: Sequence[list[SourceRow]], weights: Sequence[float]) -> list[list[SourceRow]]:
    """The largest parts that stand in these proportions."""
    unit = min(len(part) / weight for part, weight in zip(parts, weights, strict=True))
    # 1e-9: a part that gives the unit is whole, whatever the division rounded.
    sizes = [max(int(unit * weight + 1e-9), 1) for weight in weights]
    return [_at_most(part, size) for part, size in zip(parts, sizes, strict=True)]
