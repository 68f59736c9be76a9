"""The figures of one run. Each function returns panels that belong together, none where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from gps_ray.base.types import FloatArray, IntArray
from gps_ray.run.metrics import (
    OTHER_PHASES,
    RESPONSE_LENGTH_MEAN,
    REWARD_MEAN,
    STEP,
    TRAINING_PHASES,
    TRUNCATED_RATIO,
    USEFUL_RATIO,
    USEFUL_RATIO_CHOSEN,
    USEFUL_RATIO_RANDOM,
    VAL_LEVEL,
    VAL_PASS_1,
    VAL_PASS_1_HIGH,
    VAL_PASS_1_LOW,
    VAL_RESPONSE_LENGTH,
    VAL_TRUNCATED_RATIO,
)
from gps_ray.study.report.charts import (
    AXES,
    Curve,
    curve_panel,
    heat_map,
    label_text,
    share_top,
    stacked_areas,
    trailing_mean,
)
from gps_ray.study.report.run_data import RunData
from gps_ray.study.report.svg import PALETTE, RATE_MAP, SHARE_MAP, colours, panel

__all__ = [
    "cost_panels",
    "group_panels",
    "learner_panels",
    "level_cells",
    "level_curve_panels",
    "level_maps",
    "pass_rate_panels",
    "reuse_panels",
    "rollout_panels",
    "step_windows",
    "unique_prompts",
    "useful_ratio_panels",
]

MAX_LEVELS = 12
NUM_WINDOWS = 12
SMOOTHING_STEPS = 10


def pass_rate_panels(run: RunData, axes: Mapping[str, str] = AXES) -> list[Markup]:
    """pass@1 on the evaluation set with its 95 % band, against each of ``axes`` (steps, rollouts, tokens, ...)."""
    panels = []
    _, high = run.series(VAL_PASS_1_HIGH)
    top = share_top([high, run.series(VAL_PASS_1)[1]])
    for axis, label in axes.items():
        x, y = run.series(VAL_PASS_1, axis)
        low, high = run.series(VAL_PASS_1_LOW, axis)[1], run.series(VAL_PASS_1_HIGH, axis)[1]
        band = len(low) == len(high) == len(y)
        if len(y):
            line = Curve(
                label="pass@1",
                x=x,
                y=y,
                colour=PALETTE[0],
                marker=True,
                low=low if band else None,
                high=high if band else None,
            )
            about, kind = f"pass@1 against {label}", "step" if axis == STEP else "count"
            title = f"pass@1 by {label}"
            panels.append(curve_panel(about, [line], label, title, top=top, x_kind=kind, size="medium"))
    return panels


def level_curve_panels(run: RunData) -> list[Markup]:
    """pass@1 by level of the data set over steps."""
    every = run.names(VAL_LEVEL)
    names = every[:MAX_LEVELS]
    if len(names) < 2:
        return []
    palette = colours(names)
    lines = [
        Curve(label=n.removeprefix(VAL_LEVEL), x=x, y=y, colour=palette[n], marker=True, dashed=i >= len(PALETTE))
        for i, n in enumerate(names)
        for x, y in [run.series(n)]
    ]
    title = "pass@1 by level"
    shown = title + _left_out(len(names), len(every))
    return [curve_panel(f"{title} over steps", lines, "step", shown, x_kind="step", size="medium")]


def _left_out(num_shown: int, num_levels: int) -> str:
    return f" ({num_shown} of {num_levels} levels)" if num_shown < num_levels else ""


def useful_ratio_panels(run: RunData, axes: Mapping[str, str] = AXES) -> list[Markup]:
    """Share of useful groups, mean of the last ten steps over the raw values; chosen and random slots apart."""
    variants = [(USEFUL_RATIO, "all", PALETTE[2], False)]
    if len(run.series(USEFUL_RATIO_RANDOM)[1]):
        variants += [
            (USEFUL_RATIO_CHOSEN, "chosen", PALETTE[0], True),
            (USEFUL_RATIO_RANDOM, "random", PALETTE[4], True),
        ]
    panels = []
    for axis, label in axes.items():
        lines = []
        for name, text, colour, dashed in variants:
            x, y = run.series(name, axis)
            if len(y):
                smooth = trailing_mean(y, SMOOTHING_STEPS)
                faint = None if dashed else y
                lines.append(Curve(label=text, x=x, y=smooth, colour=colour, dashed=dashed, faint=faint))
        if lines:
            panels.append(
                curve_panel(
                    f"share of useful groups against {label}",
                    lines,
                    label,
                    f"useful groups by {label}",
                    x_kind="step" if axis == STEP else "count",
                    size="medium",
                )
            )
    return panels


def rollout_panels(run: RunData) -> list[Markup]:
    """Mean reward, response length and truncated share of each step's rollouts, those of the evaluation beside them."""
    return [
        curve_panel(f"{title} over steps", lines, "step", title, kind, x_kind="step", size="medium")
        for title, kind, names in _ROLLOUT_CURVES
        if (lines := [line for name, text, colour in names for line in _rollout_curve(run, name, text, colour)])
    ]


_ROLLOUT_CURVES = (
    ("mean reward", "number", ((REWARD_MEAN, "rollouts", PALETTE[0]),)),
    (
        "response length, tokens",
        "count",
        ((RESPONSE_LENGTH_MEAN, "rollouts", PALETTE[0]), (VAL_RESPONSE_LENGTH, "evaluation", PALETTE[1])),
    ),
    (
        "share cut off at the limit of tokens",
        "share",
        ((TRUNCATED_RATIO, "rollouts", PALETTE[0]), (VAL_TRUNCATED_RATIO, "evaluation", PALETTE[1])),
    ),
)


def _rollout_curve(run: RunData, name: str, label: str, colour: str) -> list[Curve]:
    x, y = run.series(name)
    if not len(y):
        return []
    if name.startswith("val/"):
        return [Curve(label=label, x=x, y=y, colour=colour, marker=True)]
    return [Curve(label=label, x=x, y=trailing_mean(y, SMOOTHING_STEPS), faint=y, colour=colour)]


def step_windows(steps: IntArray, num_windows: int = NUM_WINDOWS) -> tuple[IntArray, list[str]]:
    """Cut steps [R] into at most ``num_windows`` equal windows: (window of each row [R], label of each window)."""
    if not len(steps):
        return np.zeros(0, np.int64), []
    first, last = int(steps.min()), int(steps.max())
    width = -(-(last - first + 1) // num_windows)
    starts = range(first, last + 1, width)
    labels = [str(s) if width == 1 else f"{s}–{min(s + width - 1, last)}" for s in starts]
    return (steps - first) // width, labels


def group_panels(run: RunData, title: str = "outcome of the groups") -> list[Markup]:
    """Where the groups went: all wrong, useful, all right, without verdict, as shares of each window of steps."""
    groups = run.groups
    if not len(groups.step):
        return []
    window, labels = step_windows(groups.step, 40)
    total = np.bincount(window, minlength=len(labels))
    kinds = {
        "all wrong": ((groups.num_tried > 0) & (groups.num_right == 0), PALETTE[1]),
        "useful": (groups.useful, PALETTE[2]),
        "all right": ((groups.num_tried > 0) & (groups.num_right == groups.num_tried), PALETTE[0]),
        "no verdict": (groups.num_tried == 0, "#8c959f"),
    }
    parts = {
        name: (np.bincount(window[rows], minlength=len(labels)) / np.maximum(total, 1), colour)
        for name, (rows, colour) in kinds.items()
        if rows.any()
    }
    width = int(np.ceil((groups.step.max() - groups.step.min() + 1) / len(labels)))
    x = groups.step.min() + width * np.arange(len(labels), dtype=np.float64)
    return [
        stacked_areas(f"{title}: share of groups by outcome over steps", x, parts, label_text(title), "share", "medium")
    ]


def level_cells(run: RunData) -> tuple[list[str], list[str], FloatArray, FloatArray]:
    """(levels, windows of steps, success rate [levels, windows], share of the batch [levels, windows]) of the groups
    rolled out; NaN where a level has none. The ``MAX_LEVELS`` most frequent levels, in alphabetical order."""
    groups = run.groups
    names, counts = np.unique(groups.level.astype(str), return_counts=True)
    levels = sorted(names[np.argsort(-counts, kind="stable")[:MAX_LEVELS]].tolist())
    window, windows = step_windows(groups.step)
    shape = (len(levels), len(windows))
    right, tried, rows = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    row_of = {name: i for i, name in enumerate(levels)}
    inside = np.array([name in row_of for name in groups.level], bool)
    at = (np.array([row_of[name] for name in groups.level[inside]], np.int64), window[inside])
    np.add.at(right, at, groups.num_right[inside])
    np.add.at(tried, at, groups.num_tried[inside])
    np.add.at(rows, at, 1)
    batch = np.bincount(window, minlength=len(windows))
    with np.errstate(invalid="ignore"):
        return levels, windows, right / tried, np.where(rows > 0, rows / batch, np.nan)


def level_maps(run: RunData) -> list[Markup]:
    """Success rate of the selected groups, and their share of the batch, by level and window of steps."""
    levels, windows, rate, share = level_cells(run)
    if len(levels) < 2:
        return []
    text, upwards = "groups by level over steps", slice(None, None, -1)  # the first level on top
    labels = [name or "(no level)" for name in levels][upwards]
    top = float(np.nanmax(share, initial=0.1))
    part = _left_out(len(levels), len(np.unique(run.groups.level.astype(str))))
    rates, shares = f"success rate of selected groups, in %{part}", f"share of the batch, in %{part}"
    return [
        heat_map(f"success rate of {text}", rate[upwards], labels, windows, RATE_MAP, rates),
        heat_map(f"share of {text}", share[upwards], labels, windows, SHARE_MAP, shares, top),
    ]


def unique_prompts(run: RunData) -> tuple[FloatArray, FloatArray]:
    """(groups rolled out so far, unique prompts among them) at the end of each step with groups."""
    groups = run.groups
    if not len(groups.step):
        return np.zeros(0), np.zeros(0)
    _, first = np.unique(groups.prompt_id.astype(str), return_index=True)
    is_new = np.zeros(len(groups.step), bool)
    is_new[first] = True
    ends = np.flatnonzero(np.append(np.diff(groups.step) > 0, True))
    return (ends + 1).astype(np.float64), np.cumsum(is_new)[ends].astype(np.float64)


def reuse_panels(run: RunData) -> list[Markup]:
    """Unique prompts against groups rolled out, and how often each prompt was rolled out."""
    groups = run.groups
    made, unique = unique_prompts(run)
    if not len(made):
        return []
    lines = [
        Curve(label="unique prompts", x=made, y=unique, colour=PALETTE[0]),
        Curve(label="no reuse", x=made, y=made, colour="#8c959f", dashed=True),
    ]
    pool = run.num_pool_prompts
    level = (float(pool), "pool") if 0 < pool < 1.3 * unique[-1] else None
    times = np.unique(groups.prompt_id.astype(str), return_counts=True)[1]
    histogram = np.bincount(np.minimum(times, 12), minlength=13)[1:]
    largest = int(np.flatnonzero(histogram)[-1]) + 1
    with panel("number of prompts by how often they were rolled out", "wide") as drawn:
        axes = drawn.axes()
        bars = axes.bar(np.arange(1, largest + 1), histogram[:largest], color=PALETTE[5], width=0.75)
        axes.bar_label(bars, fontsize=8, padding=1, color="#57606a")
        labels = [f"{i}+" if i == 12 else str(i) for i in range(1, largest + 1)]
        axes.set_xticks(np.arange(1, largest + 1), labels)
        axes.margins(y=0.12)
        axes.set_xlabel("times rolled out")
        axes.set_title("prompts by times rolled out")
        axes.grid(False, axis="x")
    text, title = "unique prompts against groups", "unique prompts"
    top = 1.3 * unique[-1]
    curves = curve_panel(text, lines, "groups rolled out", title, "count", level=level, top=top, size="wide")
    return [curves, drawn.svg]


def cost_panels(run: RunData) -> list[Markup]:
    """CPU-seconds by phase, and wall seconds of each step by phase."""
    phases = [(p, run.last(f"cost/cpu_s_{p}") or 0.0, i < 3) for i, p in enumerate((*TRAINING_PHASES, *OTHER_PHASES))]
    phases = [entry for entry in phases if entry[1] > 0]
    panels = []
    if phases:
        total = sum(seconds for _, seconds, training in phases if training) or 1.0
        with panel("CPU-seconds by phase", "wide") as drawn:
            axes = drawn.axes()
            drawn.margins(left=0.85)
            shown = [PALETTE[0] if training else "#b4bac0" for *_, training in phases]
            bars = axes.barh([p for p, *_ in phases], [s for _, s, _ in phases], color=shown, height=0.65)
            notes = [f"{s:,.1f} s" + (f"  {s / total:.0%}" if training else "") for _, s, training in phases]
            axes.bar_label(bars, notes, fontsize=8, padding=3, color="#57606a")
            axes.margins(x=0.28)
            axes.invert_yaxis()
            axes.grid(False, axis="y")
            axes.set_xlabel("CPU-seconds, all processes")
            axes.set_title("CPU-seconds by phase (grey: not training)")
        panels.append(drawn.svg)
    names = ["timing_s/" + p for p in ("rollout", "update", "weights", "select", "evaluation")]
    seconds = {n: run.series(n) for n in names}
    x = seconds[names[0]][0]
    if len(x):
        # A phase that is absent at a step (no evaluation) took no time there.
        parts = {
            label_text(n.removeprefix("timing_s/")): (
                np.array([dict(zip(sx, sy, strict=True)).get(at, 0.0) for at in x]),
                PALETTE[i],
            )
            for i, (n, (sx, sy)) in enumerate(seconds.items())
            if len(sy)
        }
        title = "wall seconds per step by phase"
        panels.append(stacked_areas(title, x, parts, title, "number"))
    return panels


def learner_panels(run: RunData, limit: int = 8) -> list[Markup]:
    """What the learner reports, one small panel each."""
    panels: list[Markup] = []
    for name in run.names("train/"):
        x, y = run.series(name)
        if len(y) and len(panels) < limit:
            label = name.removeprefix("train/")
            line = Curve(label=label, x=x, y=trailing_mean(y, 5), faint=y, colour=PALETTE[3])
            panels.append(curve_panel(f"{label} over steps", [line], "step", label, "number", x_kind="step"))
    return panels
