"""The figures of several names on the same axes: one run each, or runs over seeds (mean curves with 95 % intervals)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gps_ray.base.intervals import Estimate, mean_estimate
from gps_ray.base.types import FloatArray
from gps_ray.run.metrics import PROBES, TRAINING_PHASES
from gps_ray.study.report.charts import AXES, Curve, curve_panel, label_text, legend_below, share_top, trailing_mean
from gps_ray.study.report.predictor_figures import PROBE_LABELS, SEEN_LABELS
from gps_ray.study.report.run_data import RunData
from gps_ray.study.report.run_figures import SMOOTHING_STEPS, unique_prompts
from gps_ray.study.report.summary import ArmSummary, ComparisonSummary
from gps_ray.study.report.svg import INK, PALETTE, colours, panel

__all__ = ["NamedRuns", "curves", "final_panel", "phase_costs", "probe_curves", "ratio_panel", "reuse_curves"]

# arm -> its runs, one per seed.
NamedRuns = Mapping[str, Sequence[RunData]]
_Series = list[tuple[FloatArray, FloatArray]]

MAX_FAINT_RUNS = 3  # the raw values of more runs only cover each other


def _line(name: str, series: _Series, colour: str, window: int, marker: bool, faint: bool) -> Curve | None:
    """Mean over seeds at each point of the series (x and y alike), cut to the shortest, smoothed over ``window`` points
    where that is above 1; ``faint`` shows a single run's own values behind it."""
    num_points = min((len(x) for x, _ in series), default=0)
    if not num_points:
        return None
    x = np.mean([xs[:num_points] for xs, _ in series], axis=0)
    y = np.array([trailing_mean(ys[:num_points], window) if window > 1 else ys[:num_points] for _, ys in series])
    ends = [mean_estimate(column) for column in y.T]
    known = len(series) > 1
    return Curve(
        label=name,
        x=x,
        y=y.mean(axis=0),
        low=np.array([end.low for end in ends]) if known else None,
        high=np.array([end.high for end in ends]) if known else None,
        colour=colour,
        marker=marker,
        faint=series[0][1] if faint and window > 1 and not known else None,
    )


def _lines(runs: NamedRuns, series: Mapping[str, _Series], window: int = 1, marker: bool = True) -> list[Curve]:
    palette = colours(list(runs))
    faint = len(runs) <= MAX_FAINT_RUNS
    lines = [_line(name, of_seeds, palette[name], window, marker, faint) for name, of_seeds in series.items()]
    return [line for line in lines if line is not None]


def curves(
    runs: NamedRuns, metric: str, title: str, smooth: bool = False, level: tuple[float, str] | None = None
) -> list[Markup]:
    """A share (pass@1, useful groups) against every axis of ``AXES``; ``level`` as in ``curve_panel``."""
    panels = []
    for axis, label in AXES.items():
        series = {name: [run.series(metric, axis) for run in of_seeds] for name, of_seeds in runs.items()}
        lines = _lines(runs, series, SMOOTHING_STEPS if smooth else 1, marker=not smooth)
        if lines:
            top = None if smooth else share_top([line.y for line in lines])
            about = f"{title} against {label}"
            panels.append(curve_panel(about, lines, label, f"{title} by {label}", top=top, level=level, size="medium"))
    return panels


def probe_curves(runs: NamedRuns) -> list[Markup]:
    """Spearman on each probe set over steps: of all prompts, and in the pool of those seen and never seen."""
    panels = []
    kinds = [(probe, "") for probe in PROBES] + [(PROBES[0], "_seen"), (PROBES[0], "_unseen")]
    for probe, split in kinds:
        metric = f"predictor/{probe}_spearman{split}"
        series = {name: [run.series(metric) for run in of_seeds] for name, of_seeds in runs.items()}
        lines = _lines(runs, series)
        if lines:
            title = f"Spearman, {PROBE_LABELS[probe]}{SEEN_LABELS[split]}"
            panels.append(curve_panel(title, lines, "step", title, "number", x_kind="step", size="medium"))
    return panels


def reuse_curves(runs: NamedRuns) -> list[Markup]:
    """Unique prompts against groups rolled out."""
    series = {name: [unique_prompts(run) for run in of_seeds] for name, of_seeds in runs.items()}
    lines = _lines(runs, series, marker=False)
    text = "unique prompts against groups"
    return [curve_panel(text, lines, "groups rolled out", "unique prompts", "count", size="medium")] if lines else []


def phase_costs(runs: NamedRuns) -> list[Markup]:
    """CPU-seconds of training by phase, mean over seeds; what the oracle was told is not charged and not shown."""
    seconds = {
        phase: np.array([np.mean([run.last(f"cost/cpu_s_{phase}") or 0.0 for run in of]) for of in runs.values()])
        for phase in TRAINING_PHASES
    }
    if not any(values.any() for values in seconds.values()):
        return []
    with panel("CPU-seconds of training by phase and run", "medium") as drawn:
        axes = drawn.axes()
        left = np.zeros(len(runs))
        for i, (phase, values) in enumerate(seconds.items()):
            axes.barh(range(len(runs)), values, left=left, height=0.6, color=PALETTE[i], label=phase)
            left = left + values
        _name_rows(drawn, axes, list(runs), "CPU-seconds of training", legend=True)
    return [drawn.svg]


def final_panel(summary: ComparisonSummary) -> list[Markup]:
    """The newest pass@1 of every arm: of one seed with its 95 % interval over prompts, of several over seeds."""
    found = {arm.name: _final(arm) for arm in summary.arms}
    rows = {name: estimate for name, estimate in found.items() if estimate is not None}
    if not rows:
        return []
    unit = "prompts" if len(summary.seeds) == 1 else "seeds"
    with panel("final pass@1 of every arm with its interval", "medium") as drawn:
        axes = drawn.axes()
        _intervals(axes, rows, colours([arm.name for arm in summary.arms]), hollow=())
        if summary.target is not None:
            axes.axvline(summary.target, color=INK, linewidth=1, linestyle=":")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        _name_rows(drawn, axes, list(rows), f"final pass@1, 95 % interval over {unit}")
    return [drawn.svg]


def _final(arm: ArmSummary) -> Estimate | None:
    estimate, low, high = (arm.estimate(f"final_accuracy{end}") for end in ("", "_low", "_high"))
    if estimate is None or estimate.num_units > 1 or low is None or high is None:
        return estimate
    return replace(estimate, low=low.value, high=high.value)


def ratio_panel(summary: ComparisonSummary, cost: str, title: str) -> list[Markup]:
    """Ratio of the cost to target to the baseline's, with its interval, a row per arm; log scale."""
    costs = {arm.name: arm.cost_to_target.get(cost) for arm in summary.arms if arm.name != summary.baseline}
    rows = {name: found.ratio for name, found in costs.items() if found is not None and found.ratio is not None}
    if not rows:
        return []
    with panel(f"{title}, ratio to {summary.baseline} with interval", "medium") as drawn:
        axes = drawn.axes()
        hollow = [name for name, found in costs.items() if found is not None and found.num_never]
        _intervals(axes, rows, colours([arm.name for arm in summary.arms]), hollow)
        axes.axvline(1.0, color=INK, linewidth=1, linestyle=":")
        axes.set_xscale("log")
        ticks = [0.25, 0.5, 1.0, 2.0, 4.0]
        axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
        axes.minorticks_off()
        _name_rows(drawn, axes, list(rows), title)
    return [drawn.svg]


def _intervals(axes: Any, rows: Mapping[str, Estimate], palette: Mapping[str, str], hollow: Sequence[str]) -> None:
    """A row per name, from above: a dot with its interval where that is finite."""
    for row, (name, estimate) in enumerate(rows.items()):
        bounded = np.isfinite(estimate.high - estimate.low)
        error = [[estimate.value - estimate.low], [estimate.high - estimate.value]] if bounded else None
        style = {"color": palette[name], "marker": "o", "markersize": 5, "mfc": "none" if name in hollow else None}
        axes.errorbar([estimate.value], [row], xerr=error, **style)


def _name_rows(drawn: Any, axes: Any, names: Sequence[str], title: str, legend: bool = False) -> None:
    labels = [label_text(name, 14) for name in names]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_title(title)
    left = 0.2 + 0.07 * max(map(len, labels))
    if legend:
        legend_below(drawn, axes, "medium", left=left)
    else:
        drawn.margins(left=left)
