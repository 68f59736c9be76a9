"""The figures of several selectors over seeds: mean curves with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from gps_ray.intervals import mean_estimate
from gps_ray.metrics import PROBES, TRAINING_PHASES
from gps_ray.report.charts import AXES, Line, curve_panel, label_text, legend_below, share_top, trailing_mean
from gps_ray.report.run_data import RunData
from gps_ray.report.run_figures import SMOOTHING_STEPS, unique_prompts
from gps_ray.report.svg import INK, PALETTE, colours, panel
from gps_ray.types import FloatArray

__all__ = ["curves", "phase_costs", "probe_curves", "ratio_panel", "reuse_curves"]

SeedRuns = Mapping[str, Sequence[RunData]]
_Series = list[tuple[FloatArray, FloatArray]]


def _line(name: str, series: _Series, colour: str, marker: bool) -> Line | None:
    """Mean over seeds at each place of the series (x and y alike), cut to the shortest."""
    num_points = min((len(x) for x, _ in series), default=0)
    if not num_points:
        return None
    x = np.mean([xs[:num_points] for xs, _ in series], axis=0)
    y = np.array([ys[:num_points] for _, ys in series])
    ends = [mean_estimate(column) for column in y.T]
    known = len(series) > 1
    return Line(
        label=name,
        x=x,
        y=y.mean(axis=0),
        low=np.array([end.low for end in ends]) if known else None,
        high=np.array([end.high for end in ends]) if known else None,
        colour=colour,
        marker=marker,
    )


def _lines(runs: SeedRuns, series: Mapping[str, _Series], marker: bool) -> list[Line]:
    palette = colours(list(runs))
    lines = [_line(name, of_seeds, palette[name], marker) for name, of_seeds in series.items()]
    return [line for line in lines if line is not None]


def curves(runs: SeedRuns, metric: str, title: str, smooth: bool = False) -> list[Markup]:
    """A share (pass@1, effective groups) against steps, rollouts, tokens and seconds."""
    panels = []
    window = SMOOTHING_STEPS if smooth else 1
    for axis, label in AXES.items():
        series = {
            name: [(x, trailing_mean(y, window)) for x, y in (run.series(metric, axis) for run in of_seeds)]
            for name, of_seeds in runs.items()
        }
        lines = _lines(runs, series, marker=not smooth)
        if lines:
            top = share_top([line.y for line in lines])
            about = f"{title} against {label}"
            panels.append(curve_panel(about, lines, label, f"{title} by {label}", top=top, size="medium"))
    return panels


def probe_curves(runs: SeedRuns) -> list[Markup]:
    """Spearman on each probe set over steps: of all prompts, and in the pool of those seen and never seen."""
    panels = []
    kinds = [(probe, "") for probe in PROBES] + [(PROBES[0], "_seen"), (PROBES[0], "_unseen")]
    for probe, split in kinds:
        metric = f"predictor/{probe}_spearman{split}"
        series = {name: [run.series(metric) for run in of_seeds] for name, of_seeds in runs.items()}
        lines = _lines(runs, series, marker=True)
        if lines:
            title = f"Spearman, {probe.replace('_', ' ').replace('heldout', 'held-out')}{split.replace('_', ', ')}"
            panels.append(curve_panel(title, lines, "step", title, "number", x_kind="step", size="medium"))
    return panels


def reuse_curves(runs: SeedRuns) -> list[Markup]:
    """Unique prompts against groups rolled out."""
    series = {name: [unique_prompts(run) for run in of_seeds] for name, of_seeds in runs.items()}
    lines = _lines(runs, series, marker=False)
    text = "unique prompts against groups"
    return [curve_panel(text, lines, "groups rolled out", "unique prompts", "count", size="medium")] if lines else []


def phase_costs(runs: SeedRuns) -> list[Markup]:
    """CPU-seconds of training by phase, mean over seeds; what the oracle was told is not charged and not shown."""
    with panel("CPU-seconds of training by phase and selector", "medium") as drawn:
        axes = drawn.axes()
        left = np.zeros(len(runs))
        for i, phase in enumerate(TRAINING_PHASES):
            seconds = [
                np.mean([run.last(f"cost/cpu_s_{phase}") or 0.0 for run in of_seeds]) for of_seeds in runs.values()
            ]
            axes.barh(range(len(runs)), seconds, left=left, height=0.6, color=PALETTE[i], label=phase)
            left = left + np.array(seconds)
        _name_rows(drawn, axes, list(runs), "CPU-seconds of training", legend=True)
    return [drawn.svg]


def ratio_panel(summary: Mapping[str, Any], cost: str, title: str) -> list[Markup]:
    """Ratio of the cost to target to the baseline's, with its interval, a row per selector; log scale."""
    rows = {
        name: selector["ratio_to_baseline"][cost]
        for name, selector in summary["selectors"].items()
        if name != summary["baseline"] and selector["ratio_to_baseline"][cost]["value"] is not None
    }
    if not rows:
        return []
    palette = colours(list(summary["selectors"]))
    with panel(f"{title}, ratio to {summary['baseline']} with interval", "medium") as drawn:
        axes = drawn.axes()
        for place, (name, ratio) in enumerate(rows.items()):
            low, high = ratio["low"] or ratio["value"], ratio["high"] or ratio["value"]
            error = [[ratio["value"] - low], [high - ratio["value"]]]
            filled = "none" if ratio["num_censored"] else palette[name]
            axes.errorbar(
                [ratio["value"]], [place], xerr=error, color=palette[name], marker="o", markersize=5, mfc=filled
            )
        axes.axvline(1.0, color=INK, linewidth=1, linestyle=":")
        axes.set_xscale("log")
        ticks = [0.25, 0.5, 1.0, 2.0, 4.0]
        axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
        axes.minorticks_off()
        _name_rows(drawn, axes, list(rows), title, legend=False)
    return [drawn.svg]


def _name_rows(drawn: Any, axes: Any, names: Sequence[str], title: str, legend: bool) -> None:
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
