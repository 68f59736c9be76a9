"""The numbers of the reports as data: headline figures of one run, and the table that compares several."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gps_ray.base.errors import DataError
from gps_ray.run.metrics import (
    COST_CPU_S,
    COST_ROLLOUTS,
    COST_TOKENS,
    NUM_GROUPS,
    PROBES,
    USEFUL_RATIO,
    VAL_PASS_1,
    VAL_PASS_1_HIGH,
    VAL_PASS_1_LOW,
)
from gps_ray.run.progress import format_duration
from gps_ray.study.paired import Crossing, first_crossing, smoothed, target_accuracy
from gps_ray.study.report.run_data import RunData

__all__ = [
    "COLUMNS",
    "ComparisonRow",
    "ComparisonTable",
    "Headline",
    "compare",
    "headlines",
    "overall_useful_ratio",
    "print_comparison",
]

ONE_SEED_NOTE = "one seed, an illustration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One number with its name and what stands behind it."""

    label: str
    value: str
    detail: str = ""


def _share(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def overall_useful_ratio(run: RunData) -> float | None:
    """Useful groups of all groups of the run; None before the first step."""
    rows = [row for row in run.metrics if USEFUL_RATIO in row]
    weights = [row.get(NUM_GROUPS, 1.0) for row in rows]
    if not sum(weights):
        return None
    return sum(row[USEFUL_RATIO] * weight for row, weight in zip(rows, weights, strict=True)) / sum(weights)


def num_unique_prompts(run: RunData) -> int | None:
    return len(set(run.groups.prompt_id)) if len(run.groups.step) else None


def headlines(run: RunData) -> list[Headline]:
    """What one wants to know first. A number that the run does not have (yet) is "-"."""
    accuracy = run.series(VAL_PASS_1)[1]
    low, high = run.last(VAL_PASS_1_LOW), run.last(VAL_PASS_1_HIGH)
    interval = "" if low is None or high is None else f"95 % interval {100 * low:.1f} – {100 * high:.1f}"
    begin = f"from {_share(accuracy[0])}" if len(accuracy) > 1 else ""
    unique, num_groups = num_unique_prompts(run), len(run.groups.step)
    wall = float(np.sum(run.series("timing_s/step")[1]))
    return [
        Headline(
            label="pass@1, held-out",
            value=_share(accuracy[-1] if len(accuracy) else None),
            detail=", ".join(filter(None, [begin, interval])),
        ),
        Headline(
            label="share of useful groups", value=_share(overall_useful_ratio(run)), detail="whole run, all slots"
        ),
        Headline(
            label="rollouts",
            value=f"{run.last(COST_ROLLOUTS) or 0:,.0f}",
            detail=f"{run.last(COST_TOKENS) or 0:,.0f} tokens",
        ),
        Headline(
            label="CPU-seconds",
            value=f"{run.last(COST_CPU_S) or 0:,.0f}",
            detail=f"wall clock {format_duration(wall)}, evaluation included" if wall else "",
        ),
        Headline(
            label="unique prompts",
            value="-" if unique is None else f"{unique:,}",
            detail=f"of {run.num_pool_prompts:,} in the pool, {num_groups:,} groups" if run.num_pool_prompts else "",
        ),
        Headline(
            label="Spearman, pool probe",
            value=_correlation(run.last(f"predictor/{PROBES[0]}_spearman")),
            detail=f"held-out probe {_correlation(run.last(f'predictor/{PROBES[1]}_spearman'))}",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One run against the baseline. None where the run has no such number (no evaluation yet, no predictor).

    ``pass_1`` is the newest evaluation with its interval over prompts, ``pass_1_smoothed`` the mean of the last three;
    costs to target as ``gps_ray.study.paired`` defines them; Spearman at the newest measurement of each probe set.
    """

    name: str
    num_steps: int
    pass_1: float | None
    pass_1_low: float | None
    pass_1_high: float | None
    pass_1_smoothed: float | None
    useful_group_ratio: float | None
    rollouts_to_target: Crossing | None
    cpu_s_to_target: Crossing | None
    num_unique_prompts: int | None
    pool_probe_spearman: float | None
    heldout_probe_spearman: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonTable:
    """Rows in the order given; ``target`` is the baseline's smoothed final pass@1, None before its first evaluation."""

    baseline: str
    target: float | None
    rows: Sequence[ComparisonRow]
    note: str

    def cells(self) -> list[list[str]]:
        """The table as text, one list per row, in the order of ``COLUMNS``."""
        base = next(row for row in self.rows if row.name == self.baseline)
        return [_cells(row, base) for row in self.rows]

    @property
    def caption(self) -> str:
        target = "no target yet" if self.target is None else f"target {_share(self.target)}"
        return f"{target}: mean of {self.baseline}'s last three evaluations; {self.note}"


COLUMNS = (
    "run",
    "final pass@1",
    "last 3 evaluations",
    "useful groups",
    "rollouts to target",
    "CPU-s to target",
    "unique prompts",
    "Spearman pool probe",
    "Spearman held-out probe",
)


def _cells(row: ComparisonRow, base: ComparisonRow) -> list[str]:
    interval = ""
    if row.pass_1_low is not None and row.pass_1_high is not None:
        interval = f" [{100 * row.pass_1_low:.1f}, {100 * row.pass_1_high:.1f}]"
    return [
        row.name,
        _share(row.pass_1) + interval,
        _share(row.pass_1_smoothed),
        _share(row.useful_group_ratio),
        _cost(row.rollouts_to_target, base.rollouts_to_target),
        _cost(row.cpu_s_to_target, base.cpu_s_to_target),
        "-" if row.num_unique_prompts is None else f"{row.num_unique_prompts:,}",
        _correlation(row.pool_probe_spearman),
        _correlation(row.heldout_probe_spearman),
    ]


def _cost(crossing: Crossing | None, base: Crossing | None) -> str:
    """``11,520 (0.50x)``; a censored run spent its whole budget and is shown as ``> 23,040``."""
    if crossing is None:
        return "-"
    if crossing.censored:
        return f"> {crossing.cost:,.0f}"
    if base is None or base is crossing or base.cost <= 0:
        return f"{crossing.cost:,.0f}"
    return f"{crossing.cost:,.0f} ({crossing.cost / base.cost:.2f}×)"


def compare(runs: Mapping[str, RunData], baseline: str | None = None, note: str = ONE_SEED_NOTE) -> ComparisonTable:
    """The comparison as data. ``baseline`` null is "uniform" where there is one, else the first run.

    Raises DataError where there is no run, or ``baseline`` is not among them.
    """
    if not runs:
        raise DataError("expected at least one run to compare, got none; name run folders")
    if baseline is None:
        baseline = "uniform" if "uniform" in runs else next(iter(runs))
    if baseline not in runs:
        raise DataError(
            f"baseline: expected one of the runs ({', '.join(runs)}), got {baseline!r}; name another baseline"
        )
    accuracy = runs[baseline].series(VAL_PASS_1)[1]
    target = target_accuracy(accuracy) if len(accuracy) else None
    rows = [_row(name, run, target) for name, run in runs.items()]
    return ComparisonTable(baseline=baseline, target=target, rows=rows, note=note)


def _row(name: str, run: RunData, target: float | None) -> ComparisonRow:
    accuracy = run.series(VAL_PASS_1)[1]
    return ComparisonRow(
        name=name,
        num_steps=run.num_steps_done,
        pass_1=run.last(VAL_PASS_1),
        pass_1_low=run.last(VAL_PASS_1_LOW),
        pass_1_high=run.last(VAL_PASS_1_HIGH),
        pass_1_smoothed=float(smoothed(accuracy)[-1]) if len(accuracy) else None,
        useful_group_ratio=overall_useful_ratio(run),
        rollouts_to_target=_crossing(run, COST_ROLLOUTS, target),
        cpu_s_to_target=_crossing(run, COST_CPU_S, target),
        num_unique_prompts=num_unique_prompts(run),
        pool_probe_spearman=run.last(f"predictor/{PROBES[0]}_spearman"),
        heldout_probe_spearman=run.last(f"predictor/{PROBES[1]}_spearman"),
    )


def _crossing(run: RunData, axis: str, target: float | None) -> Crossing | None:
    cost, accuracy = run.series(VAL_PASS_1, axis)
    return None if target is None or not len(cost) else first_crossing(cost, accuracy, target)


def print_comparison(table: ComparisonTable, console: Console | None = None) -> None:
    """The table in a terminal: a column per run while they are few, so that it fits 80 characters."""
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 160)
    rows = [list(COLUMNS), *table.cells()]
    if len(table.rows) <= 3:
        rows = [list(row) for row in zip(*rows, strict=True)]
    drawn = Table(caption=Text(table.caption), caption_justify="left")
    for i, column in enumerate(rows[0]):
        drawn.add_column(Text(column), justify="left" if i == 0 else "right")
    for cells in rows[1:]:
        drawn.add_row(*(Text(cell) for cell in cells))  # a run's name is no markup
    console.print(drawn)
