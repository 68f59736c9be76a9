"""The comparison as text: one table for the terminal and the page.

One seed is shown with the costs that were really paid and the interval of its newest evaluation over prompts; several
with means over seeds, what they differ from the baseline by, and 95 % intervals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gps_ray.study.over_seeds import estimate_text, mean_text
from gps_ray.study.paired import NUM_SMOOTHED
from gps_ray.study.report.summary import ArmSummary, ComparisonSummary, CostToTarget

__all__ = [
    "Column",
    "caption",
    "cells",
    "columns",
    "crossing_words",
    "last_evaluations",
    "print_comparison",
    "seeds_note",
]

MAX_ARMS_SIDE_BY_SIDE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """``cell`` writes what stands there for an arm, given the baseline's arm too."""

    title: str
    cell: Callable[[ArmSummary, ArmSummary], str]


def columns(summary: ComparisonSummary) -> tuple[Column, ...]:
    return _one_seed(_smoothed_title(summary)) if len(summary.seeds) == 1 else _SEVERAL_SEEDS


def cells(summary: ComparisonSummary) -> list[list[str]]:
    """The table as text, one list per arm, in the order of ``columns``."""
    base = summary.baseline_arm
    return [[column.cell(arm, base) for column in columns(summary)] for arm in summary.arms]


def seeds_note(summary: ComparisonSummary) -> str:
    num_seeds = len(summary.seeds)
    return f"{num_seeds} matched seeds" if num_seeds > 1 else "one seed, an illustration"


def caption(summary: ComparisonSummary) -> str:
    note = seeds_note(summary)
    if summary.target is None:
        text = f"no target: {summary.baseline} has no evaluation yet; {note}"
    else:
        of_baseline = last_evaluations([summary.baseline_arm])
        text = f"target {_share(summary.target)}: pass@1 of {summary.baseline}, {of_baseline}; {note}"
    if len(summary.seeds) == 1:
        return text
    return (
        f"{text}. Accuracy: pass@1 in percent, {last_evaluations(summary.arms)}. Differences (points) and ratios are "
        f"against {summary.baseline}, paired by seed, with 95 % intervals over seeds."
    )


def last_evaluations(arms: Sequence[ArmSummary]) -> str:
    """What the smoothed accuracy of these arms is a mean of, by the evaluations that their runs really have."""
    windows = {min(number, NUM_SMOOTHED) for arm in arms for number in arm.num_evaluations if number}
    if len(windows) > 1:
        return f"mean of the last {NUM_SMOOTHED} evaluations (of all in a run with fewer)"
    window = windows.pop() if windows else NUM_SMOOTHED
    return "its only evaluation" if window == 1 else f"mean of the last {window} evaluations"


def _smoothed_title(summary: ComparisonSummary) -> str:
    """``last 3 evaluations``, or as many as there are."""
    return last_evaluations(summary.arms).removeprefix("mean of the ").removeprefix("its ")


def crossing_words(summary: ComparisonSummary) -> str:
    """Where a run reaches the target, in words that hold for its number of evaluations."""
    numbers = [number for arm in summary.arms for number in arm.num_evaluations if number]
    if not numbers or min(numbers) >= NUM_SMOOTHED:
        return "the cost at the first evaluation whose mean with the two before it reaches the target"
    return (
        "the cost at the first evaluation whose mean with the two before it reaches the target; a run with fewer than "
        f"{NUM_SMOOTHED} evaluations has only the mean of all that it has, at its last one"
    )


def print_comparison(summary: ComparisonSummary, console: Console | None = None) -> None:
    """The table in a terminal: a column per arm while they are few, so that it fits 80 characters."""
    if console is None:
        # Without a terminal rich assumes 80 columns and folds figures.
        console = Console(width=None if sys.stdout.isatty() else 160)
    rows = [[column.title for column in columns(summary)], *cells(summary)]
    if len(summary.arms) <= MAX_ARMS_SIDE_BY_SIDE:
        rows = [list(row) for row in zip(*rows, strict=True)]
    drawn = Table(caption=Text(caption(summary)), caption_justify="left")
    for i, title in enumerate(rows[0]):
        drawn.add_column(Text(title), justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows[1:]:
        drawn.add_row(*(Text(cell) for cell in row))  # an arm's name is no markup
    console.print(drawn)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _mean(title: str, figure: str, write: Callable[[float], str]) -> Column:
    return Column(title=title, cell=lambda arm, base: mean_text(arm.estimate(figure), write))


def _evaluation(title: str, figure: str) -> Column:
    """One evaluation of one run, with its interval over prompts."""

    def cell(arm: ArmSummary, base: ArmSummary) -> str:
        value, low, high = (arm.estimate(f"{figure}{end}") for end in ("", "_low", "_high"))
        bounds = f" [{mean_text(low, _percent)}, {mean_text(high, _percent)}]" if low and high else ""
        return mean_text(value, _share) + bounds

    return Column(title=title, cell=cell)


def _accuracy(arm: ArmSummary, base: ArmSummary) -> str:
    return estimate_text(arm.estimate("accuracy"), _percent)


def _at_equal(cost: str, title: str) -> Column:
    def cell(arm: ArmSummary, base: ArmSummary) -> str:
        figure = arm.difference.get(f"accuracy_at_equal_{cost}")
        return "-" if figure is None or arm is base else estimate_text(figure.estimate, _points)

    return Column(title=title, cell=cell)


def _paid(cost: str, title: str) -> Column:
    """What one run paid: ``11,520 (0.50×)``; one that never got there is shown as ``> 23,040``."""

    def cell(arm: ArmSummary, base: ArmSummary) -> str:
        found = arm.cost_to_target.get(cost)
        if found is None:
            return "-"
        text = f"{found.by_seed[0].cost:,.0f}"
        if found.num_never:
            return f"> {text}"
        return text if arm is base or found.ratio is None else f"{text} ({found.ratio.value:.2f}×)"

    return Column(title=title, cell=cell)


def _ratio(cost: str, title: str) -> Column:
    def cell(arm: ArmSummary, base: ArmSummary) -> str:
        return "1" if arm is base else _ratio_text(arm.cost_to_target.get(cost))

    return Column(title=title, cell=cell)


def _ratio_text(cost: CostToTarget | None) -> str:
    """``0.61 [0.52, 0.72]``; ``(2 never)`` where runs never met the target and count with their whole budget."""
    if cost is None or cost.ratio is None:
        return "-"
    never = f" ({cost.num_never} never)" if cost.num_never else ""
    return estimate_text(cost.ratio, "{:.2f}".format) + never


def _name(title: str) -> Column:
    return Column(title=title, cell=lambda arm, base: arm.label)


_UNIQUE = _mean("unique prompts", "num_unique_prompts", "{:,.0f}".format)
_POOL_PROBE = _mean("Spearman pool probe", "pool_probe_spearman", "{:.2f}".format)


def _one_seed(smoothed_title: str) -> tuple[Column, ...]:
    return (
        _name("run"),
        _evaluation("first pass@1", "accuracy_at_start"),
        _evaluation("final pass@1", "final_accuracy"),
        _mean(smoothed_title, "accuracy", _share),
        _mean("useful groups", "useful_group_ratio", _share),
        _paid("rollouts", "rollouts to target"),
        _paid("cpu_s", "CPU-s to target"),
        _mean("rollouts", "rollouts", "{:,.0f}".format),
        _mean("tokens", "tokens", "{:,.0f}".format),
        _mean("seconds", "wall_s", "{:,.0f}".format),
        _UNIQUE,
        _POOL_PROBE,
        _mean("Spearman held-out probe", "heldout_probe_spearman", "{:.2f}".format),
    )


_SEVERAL_SEEDS: tuple[Column, ...] = (
    _name("arm"),
    Column(title="accuracy", cell=_accuracy),
    _at_equal("rollouts", "difference, equal rollouts"),
    _at_equal("cpu_s", "difference, equal CPU-s"),
    _ratio("rollouts", "rollouts to target"),
    _ratio("cpu_s", "CPU-s to target"),
    _mean("useful, chosen", "useful_group_ratio_chosen", _percent),
    _mean("useful, all", "useful_group_ratio", _percent),
    _UNIQUE,
    _POOL_PROBE,
)
