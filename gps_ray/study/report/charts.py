"""The kinds of chart that both reports are made of: curves, heat maps, stacked shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.colors import Colormap
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, PercentFormatter

from gps_ray.base.types import FloatArray
from gps_ray.run.metrics import COST_CPU_S, COST_ROLLOUTS, COST_TOKENS, COST_WALL_S, STEP
from gps_ray.study.report.svg import INK, RATE_MAP, Panel, panel

__all__ = [
    "AXES",
    "Curve",
    "curve_panel",
    "heat_map",
    "label_text",
    "legend_below",
    "share_top",
    "stacked_areas",
    "trailing_mean",
]

# What the curves are drawn against: metric -> label of the axis.
AXES = {
    STEP: "step",
    COST_ROLLOUTS: "rollouts",
    COST_TOKENS: "tokens generated",
    COST_CPU_S: "CPU-seconds",
    COST_WALL_S: "seconds (wall clock)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One curve: x [E], y [E]; ``low`` and ``high`` [E] draw a band; ``faint`` [E] the unsmoothed values behind it."""

    label: str
    x: FloatArray
    y: FloatArray
    colour: str
    low: FloatArray | None = None
    high: FloatArray | None = None
    faint: FloatArray | None = None
    dashed: bool = False
    marker: bool = False


def label_text(text: str, limit: int = 28) -> str:
    """A label from a data set or a folder name, made safe to draw: printable, one line, not too long."""
    clean = "".join(c if c.isprintable() else " " for c in text.encode(errors="replace").decode())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def trailing_mean(values: FloatArray, window: int) -> FloatArray:
    """Mean of each value and up to ``window`` - 1 before it; [E] -> [E]."""
    ends = np.cumsum(np.concatenate([[0.0], values]))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    means: FloatArray = (ends[stop] - ends[start]) / (stop - start)
    return means


def _format_axis(axis: Any, kind: str) -> None:
    if kind == "share":
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif kind == "count":
        axis.set_major_formatter(FuncFormatter(_short_number))
    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=kind == "step"))


def _short_number(value: float, _: int | None = None) -> str:
    """``1500`` -> ``1.5k``; below a thousand as it is (never "600m")."""
    return EngFormatter(sep="")(value) if abs(value) >= 1000 else f"{value:g}"


def curve_panel(
    description: str,
    lines: Sequence[Curve],
    xlabel: str,
    title: str = "",
    kind: str = "share",
    top: float | None = None,
    level: tuple[float, str] | None = None,
    x_kind: str = "count",
    size: str = "small",
) -> Markup:
    """Curves over one axis. ``kind`` formats y ("share" in percent, "count", "number"); a share begins at 0.

    ``top`` fixes the upper end, so that panels side by side compare; ``level`` is a horizontal line with its label.
    """
    with panel(description, size) as drawn:
        axes = drawn.axes()
        for line in lines:
            style = {"color": line.colour, "linestyle": "--" if line.dashed else "-"}
            if line.faint is not None:
                axes.plot(line.x, line.faint, color=line.colour, alpha=0.22, linewidth=1)
            if line.low is not None and line.high is not None and len(line.x) > 1:
                axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.13, linewidth=0)
            # A single point draws no line: it is shown as a dot.
            marker = "o" if line.marker or len(line.x) == 1 else ""
            axes.plot(line.x, line.y, marker=marker, markersize=4, label=label_text(line.label), **style)
        if level is not None:
            axes.axhline(level[0], color=INK, linewidth=1, linestyle=":", label=level[1])
        axes.set_xlabel(xlabel)
        axes.set_title(title)
        if kind == "share" or top is not None:
            axes.set_ylim(0, top if top is not None else 1.02)
        _format_axis(axes.yaxis, kind)
        _format_axis(axes.xaxis, x_kind)
        reached = max((float(np.max(line.x)) for line in lines if len(line.x)), default=0.0)
        axes.set_xlim(left=0, right=None if reached > 0 else 1.0)
        if len(lines) > 1 or level is not None:
            legend_below(drawn, axes, size)
    return drawn.svg


def legend_below(drawn: Panel, axes: Any, size: str, left: float = 0.48) -> None:
    """The legend under the axes, where it covers nothing; the figure grows with it. ``left``: left margin, inches."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [label_text(label, 24) for label in labels]
    room = {"small": 44, "medium": 60, "wide": 90}[size]  # characters that fit beside each other
    num_columns = max(1, min(len(labels), room // (max(map(len, labels), default=0) + 5)))
    height = 0.18 * -(-len(labels) // num_columns)
    drawn.figure.set_figheight(drawn.figure.get_figheight() + height - 0.18)
    drawn.margins(left=left, bottom=0.48 + height)
    drawn.figure.legend(handles, labels, loc="lower center", ncols=num_columns, columnspacing=1.2, borderaxespad=0.1)


def share_top(values: Sequence[FloatArray]) -> float:
    """Upper end of the share axis for all panels of a row: a round number a little above the largest value."""
    largest = max((float(np.max(v)) for v in values if len(v)), default=1.0)
    return max(float(np.ceil(largest * 1.1 * 10) / 10), 0.1) if largest < 0.9 else 1.02


def heat_map(
    description: str,
    cells: FloatArray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    colour_map: Colormap,
    title: str,
    top: float = 1.0,
) -> Markup:
    """Shares in cells [rows, columns] (NaN: nothing to show) over steps; row 0 is drawn at the bottom.

    Cells carry their value in percent where there is room (in a map of shares only what is not 0).
    """
    num_rows, num_columns = cells.shape
    labels = [label_text(label, 20) for label in row_labels]
    with panel(description, "wide", height=0.75 + 0.22 * max(num_rows, 4)) as drawn:
        axes = drawn.axes()
        drawn.margins(left=0.2 + 0.068 * max(map(len, labels)))
        axes.grid(False)
        axes.set_facecolor("#f3f4f6")
        mesh = axes.pcolormesh(cells, cmap=colour_map, vmin=0, vmax=top, edgecolors="white", linewidth=0.6)
        if num_columns <= 14:
            written = np.isfinite(cells) & ((cells > 0) | (colour_map is RATE_MAP))
            for row, column in np.argwhere(written):
                red, green, blue, _ = colour_map(min(float(cells[row, column]) / top, 1.0))
                ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else INK
                label = f"{100 * cells[row, column]:.0f}"
                axes.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=7, color=ink)
        axes.set_yticks(np.arange(num_rows) + 0.5, labels)
        room = 56 // max(len(label) + 2 for label in column_labels)  # labels that fit beside each other
        shown = np.arange(0, num_columns, -(-num_columns // room))
        axes.set_xticks(shown + 0.5, [column_labels[i] for i in shown])
        axes.set_xlabel("step")
        axes.set_title(title)
        bar = drawn.figure.colorbar(
            mesh, ax=axes, fraction=0.1, aspect=25, pad=0.02, format=PercentFormatter(1.0, decimals=0)
        )
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(nbins=4)
        bar.update_ticks()
    return drawn.svg


def stacked_areas(
    description: str,
    x: FloatArray,
    parts: Mapping[str, tuple[FloatArray, str]],
    title: str,
    kind: str,
    size: str = "wide",
) -> Markup:
    """Areas on top of each other over steps x [E]: label -> (y [E], colour), from the bottom. Each x is a step wide."""
    with panel(description, size) as drawn:
        axes = drawn.axes()
        values, colour = [v for v, _ in parts.values()], [c for _, c in parts.values()]
        if len(x) == 1:  # an area needs two points
            x = np.array([x[0] - 0.5, x[0] + 0.5])
            values = [np.repeat(v, 2) for v in values]
        if len(x):
            axes.stackplot(x, *values, labels=list(parts), colors=colour, linewidth=0, alpha=0.9, step="mid")
            axes.set_xlim(x[0], x[-1])
        if kind == "share":
            axes.set_ylim(0, 1)
        axes.set_xlabel("step")
        axes.set_title(title)
        _format_axis(axes.yaxis, kind)
        _format_axis(axes.xaxis, "step")
        legend_below(drawn, axes, size)
    return drawn.svg
