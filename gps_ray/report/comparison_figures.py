"""The figures of several runs on the same axes."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gps_ray.metrics import EFFECTIVE_RATIO, PROBES, TRAINING_PHASES, VAL_PASS_1
from gps_ray.report.charts import AXES, Line, curve_panel, label_text, legend_below, share_top, trailing_mean
from gps_ray.report.run_data import RunData
from gps_ray.report.run_figures import SMOOTHING_STEPS, unique_prompts
from gps_ray.report.svg import INK, PALETTE, colours, panel
from gps_ray.report.tables import ComparisonTable

__all__ = [
    "cost_overlays",
    "effective_ratio_overlays",
    "final_panel",
    "pass_rate_overlays",
    "reuse_overlays",
    "spearman_overlays",
]


MAX_FAINT_RUNS = 3  # the raw values of more runs only cover each other


def _overlay(runs: Mapping[str, RunData], metric: str, axis: str, smooth: int = 1) -> list[Line]:
    palette = colours(list(runs))
    lines = []
    for name, run in runs.items():
        x, y = run.series(metric, axis)
        if len(y):
            shown = trailing_mean(y, smooth) if smooth > 1 else y
            faint = y if smooth > 1 and len(runs) <= MAX_FAINT_RUNS else None
            lines.append(Line(label=name, x=x, y=shown, faint=faint, colour=palette[name], marker=smooth == 1))
    return lines


def pass_rate_overlays(runs: Mapping[str, RunData], target: float | None) -> list[Markup]:
    """pass@1 of every run against steps, rollouts, tokens and CPU-seconds, with the target."""
    top = share_top([run.series(VAL_PASS_1)[1] for run in runs.values()])
    level = None if target is None else (target, "target")
    panels = []
    for axis, label in AXES.items():
        lines = _overlay(runs, VAL_PASS_1, axis)
        if lines:
            title = f"pass@1 by {label}"
            panels.append(
                curve_panel(f"pass@1 against {label}", lines, label, title, top=top, level=level, size="medium")
            )
    return panels


def final_panel(table: ComparisonTable) -> list[Markup]:
    """The newest pass@1 of every run with its 95 % interval over prompts."""
    rows = [row for row in table.rows if row.pass_1 is not None]
    if not rows:
        return []
    names = [label_text(row.name, 14) for row in rows]
    palette = colours([row.name for row in table.rows])
    with panel("final pass@1 of every run with its interval", "medium") as drawn:
        axes = drawn.axes()
        for place, row in enumerate(rows):
            value = row.pass_1 or 0.0
            low = value if row.pass_1_low is None else row.pass_1_low
            high = value if row.pass_1_high is None else row.pass_1_high
            error = [[value - low], [high - value]]
            axes.errorbar([value], [place], xerr=error, color=palette[row.name], marker="o", markersize=5)
        if table.target is not None:
            axes.axvline(table.target, color=INK, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.grid(False, axis="y")
        axes.set_title("final pass@1, 95 % interval over prompts")
        drawn.margins(left=0.2 + 0.07 * max(map(len, names)))
    return [drawn.svg]


def effective_ratio_overlays(runs: Mapping[str, RunData]) -> list[Markup]:
    panels = []
    for axis, label in AXES.items():
        lines = _overlay(runs, EFFECTIVE_RATIO, axis, SMOOTHING_STEPS)
        if lines:
            about = f"effective-group ratio against {label}"
            panels.append(curve_panel(about, lines, label, f"effective groups by {label}", size="medium"))
    return panels


def spearman_overlays(runs: Mapping[str, RunData]) -> list[Markup]:
    """Spearman on each probe set over steps, for the runs that predict."""
    panels = []
    for probe, text in zip(PROBES, ("pool probe", "held-out probe"), strict=True):
        lines = _overlay(runs, f"predictor/{probe}_spearman", "step")
        if lines:
            title = f"Spearman, {text}"
            panels.append(
                curve_panel(f"{title} over steps", lines, "step", title, "number", x_kind="step", size="medium")
            )
    return panels


def reuse_overlays(runs: Mapping[str, RunData]) -> list[Markup]:
    """Unique prompts against groups rolled out."""
    palette = colours(list(runs))
    lines = []
    for name, run in runs.items():
        made, unique = unique_prompts(run)
        if len(made):
            lines.append(Line(label=name, x=made, y=unique, colour=palette[name]))
    if not lines:
        return []
    text, title = "unique prompts against groups", "unique prompts"
    return [curve_panel(text, lines, "groups rolled out", title, "count", size="medium")]


def cost_overlays(runs: Mapping[str, RunData]) -> list[Markup]:
    """CPU-seconds of training by phase, a bar per run."""
    seconds = {name: [run.last(f"cost/cpu_s_{p}") or 0.0 for p in TRAINING_PHASES] for name, run in runs.items()}
    if not any(sum(values) for values in seconds.values()):
        return []
    with panel("CPU-seconds of training by phase and run", "medium") as drawn:
        axes = drawn.axes()
        left = [0.0] * len(seconds)
        for i, phase in enumerate(TRAINING_PHASES):
            values = [row[i] for row in seconds.values()]
            axes.barh(range(len(seconds)), values, left=left, height=0.6, color=PALETTE[i], label=phase)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_title("CPU-seconds of training")
        labels = [label_text(name, 14) for name in seconds]
        axes.set_yticks(range(len(seconds)), labels)
        legend_below(drawn, axes, "medium", left=0.2 + 0.07 * max(map(len, labels)))
    return [drawn.svg]
