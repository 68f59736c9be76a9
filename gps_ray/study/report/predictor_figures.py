"""The predictor's figures of one run: what it predicted for the probe sets against what then happened."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from gps_ray.base.types import FloatArray, IntArray
from gps_ray.run.metrics import PROBES
from gps_ray.study.report.charts import Curve, curve_panel, heat_map
from gps_ray.study.report.run_data import ProbeTable, RunData
from gps_ray.study.report.svg import PALETTE, SHARE_MAP, colours, panel

__all__ = [
    "PROBE_LABELS",
    "SEEN_LABELS",
    "batch_panels",
    "calibration_bins",
    "calibration_panels",
    "probe_maps",
    "rate_shares",
    "spearman_panels",
    "swap_test_panels",
]

PROBE_LABELS = dict(zip(PROBES, ("pool probe", "held-out probe"), strict=True))
SEEN_LABELS = {"": "", "_seen": ", seen", "_unseen": ", never seen"}  # by ending of the metric's name
NUM_BINS = 10


def rate_shares(step: IntArray, rate: FloatArray) -> tuple[IntArray, FloatArray]:
    """(steps [S], cells [10, S]): share of the prompts measured at a step whose rate lies in each tenth.

    step and rate are [R]; rows with a NaN rate are left out, a step without any other has NaN cells.
    """
    steps = np.unique(step)
    cells = np.full((NUM_BINS, len(steps)), np.nan)
    for column, at in enumerate(steps):
        here = rate[(step == at) & np.isfinite(rate)]
        if len(here):
            tenth = np.minimum((here * NUM_BINS).astype(int), NUM_BINS - 1)
            cells[:, column] = np.bincount(tenth, minlength=NUM_BINS) / len(here)
    return steps, cells


def probe_maps(run: RunData) -> list[Markup]:
    """The pool's difficulty over time on the pool probe: how many prompts have which success rate, as predicted and
    as realised."""
    table = run.probes.at(run.probes.probe == PROBES[0])
    labels = [f"{10 * i}–{10 * (i + 1)}" for i in range(NUM_BINS)]
    panels = []
    for title, rate in (
        ("realised success rate of the pool", table.num_right / table.num_tried),
        ("predicted success rate of the pool", table.predicted_mean),
    ):
        steps, cells = rate_shares(table.step, rate)
        if np.isfinite(cells).any():
            top, about = max(0.3, float(np.nanmax(cells))), f"{title}: share of prompts by rate over steps"
            ticks = [str(step) for step in steps]
            panels.append(heat_map(about, cells, labels, ticks, SHARE_MAP, f"{title}, share of prompts in %", top))
    return panels


def batch_panels(run: RunData) -> list[Markup]:
    """Mean predicted and mean realised success rate of each step's batch, over its groups with a prediction."""
    groups = run.groups.at(np.isfinite(run.groups.predicted_mean) & (run.groups.num_tried > 0))
    if not len(groups.step):
        return []
    steps, at = np.unique(groups.step, return_inverse=True)
    rates = {"predicted": groups.predicted_mean, "realised": groups.num_right / groups.num_tried}
    count, x = np.bincount(at), steps.astype(np.float64)
    lines = [
        Curve(label=name, x=x, y=np.bincount(at, weights=rate) / count, colour=PALETTE[i])
        for i, (name, rate) in enumerate(rates.items())
    ]
    title = "mean success rate of the batch"
    return [curve_panel(f"{title} over steps", lines, "step", title, x_kind="step", size="wide")]


def calibration_panels(run: RunData) -> list[Markup]:
    """Predicted against realised success at the newest measurement of each probe set, in ten bins."""
    panels = []
    for probe in PROBES:
        table = run.probes.at((run.probes.probe == probe) & np.isfinite(run.probes.predicted_mean))
        if len(table.step):
            newest = table.at(table.step == table.step.max())
            panels.append(_calibration_panel(PROBE_LABELS[probe], newest))
    return panels


def calibration_bins(table: ProbeTable) -> tuple[FloatArray, FloatArray, FloatArray, IntArray]:
    """Mean predicted, mean realised, half width of the latter's 95 % interval, number of prompts, per non-empty bin."""
    bins = np.minimum((table.predicted_mean * NUM_BINS).astype(int), NUM_BINS - 1)
    rate = table.num_right / table.num_tried
    kept = np.unique(bins)
    count = np.array([np.count_nonzero(bins == b) for b in kept], np.int64)
    predicted = np.array([table.predicted_mean[bins == b].mean() for b in kept])
    realised = np.array([rate[bins == b].mean() for b in kept])
    spread = np.array([rate[bins == b].std(ddof=1) if (bins == b).sum() > 1 else 0.0 for b in kept])
    return predicted, realised, 1.96 * spread / np.sqrt(count), count


def _calibration_panel(label: str, table: ProbeTable) -> Markup:
    predicted, realised, half, count = calibration_bins(table)
    with panel(f"calibration on the {label}", "wide", height=3.6) as drawn:
        axes, bars = drawn.figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        drawn.margins(left=0.6)
        axes.plot([0, 1], [0, 1], color="#8c959f", linestyle=":", linewidth=1.2)
        for seen, colour, text in ((True, PALETTE[0], "seen"), (False, PALETTE[4], "never seen")):
            rows = table.seen == seen
            if rows.any():
                rate = table.num_right[rows] / table.num_tried[rows]
                style = {"s": 9, "color": colour, "alpha": 0.35, "linewidths": 0, "label": f"{text} ({rows.sum()})"}
                axes.scatter(table.predicted_mean[rows], rate, **style)
        low, high = np.minimum(half, realised), np.minimum(half, 1 - realised)
        axes.errorbar(predicted, realised, yerr=[low, high], color="#24292f", marker="o", markersize=4, linewidth=1.2)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylabel("realised")
        axes.set_title(f"{label}, step {int(table.step.max())}")
        axes.legend(loc="upper left", handletextpad=0.2)
        bars.bar(predicted, count, width=0.07, color="#b4bac0")
        bars.set_ylabel("prompts")
        bars.set_xlabel("predicted success rate")
    return drawn.svg


def spearman_panels(run: RunData) -> list[Markup]:
    """Rank correlation of predicted and realised success on both probe sets over steps."""
    curves = [
        (PROBES[0], "", PALETTE[0], False),
        (PROBES[0], "_seen", PALETTE[5], True),
        (PROBES[0], "_unseen", PALETTE[4], True),
        (PROBES[1], "", PALETTE[1], False),
    ]
    lines = []
    for probe, suffix, colour, dashed in curves:
        x, y = run.series(f"predictor/{probe}_spearman{suffix}")
        if len(y):
            text = PROBE_LABELS[probe] + SEEN_LABELS[suffix]
            lines.append(Curve(label=text, x=x, y=y, colour=colour, dashed=dashed, marker=True))
    if not lines:
        return []
    ceiling = run.last(f"predictor/{PROBES[0]}_noise_ceiling")
    level = None if ceiling is None else (ceiling, "noise ceiling")
    title = "Spearman on the probe sets"
    text = f"{title} over steps"
    return [curve_panel(text, lines, "step", title, "number", level=level, x_kind="step", size="wide")]


def swap_test_panels(run: RunData) -> list[Markup]:
    """The swap test over steps, where the predictor reports one."""
    names = [name for name in run.names("predictor/") if "swap" in name]
    palette = colours(names)
    lines = []
    for name in names:
        x, y = run.series(name)
        lines.append(Curve(label=name.removeprefix("predictor/"), x=x, y=y, colour=palette[name]))
    if not lines:
        return []
    return [curve_panel("swap test over steps", lines, "step", "swap test", "number", x_kind="step", size="wide")]
