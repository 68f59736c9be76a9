"""The replay as one page: the table, and the curves over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from gps_ray.base.types import FloatArray
from gps_ray.study.replay.protocol import ReplayRun
from gps_ray.study.replay.summary import COLUMNS, Summary, table_rows
from gps_ray.study.report.charts import Curve, curve_panel
from gps_ray.study.report.render import ReportSection, Row, render, visible
from gps_ray.study.report.svg import colours

__all__ = ["write_page"]

_PREDICTION = (
    ("spearman", "Spearman", "number"),
    ("spearman_unseen", "Spearman, never seen", "number"),
    ("ece", "calibration error", "number"),
)
_CHOICE = (("useful_group_ratio", "useful groups", "share"),)


def write_page(
    runs: Sequence[ReplayRun],
    summary: Summary,
    ceiling: FloatArray,
    subtitle: str,
    notes: Sequence[str],
    out: Path,
    *,
    shows_choice: bool = True,
) -> Path:
    """``ceiling`` [T]: noise ceiling per point in time; ``shows_choice``: what was revealed is what selectors chose."""
    sections = [
        ReportSection(
            anchor="prediction",
            title="Prediction",
            how="Of the whole pool, before each point in time. Mean over seeds with its range; dotted: noise ceiling.",
            rows=[Row(panels=_panels(runs, _PREDICTION, ceiling), size="medium")],
            empty="No selector here predicts anything.",
        ),
    ]
    if shows_choice:
        sections.append(
            ReportSection(
                anchor="choice",
                title="Choice",
                how="Share of the revealed groups that are useful: neither all right nor all wrong.",
                rows=[Row(panels=_panels(runs, _CHOICE, ceiling), size="medium")],
            )
        )
    palette = colours([visible(name, 40) for name in summary])
    rows = [[visible(cell, 60) for cell in row] for row in table_rows(summary)]
    values = {
        "title": "Selectors replayed on recorded outcomes",
        "subtitle": visible(subtitle, 200),
        "warnings": [visible(note, 200) for note in notes],
        "columns": COLUMNS,
        "rows": [{"cells": row, "colour": palette[row[0]], "link": ""} for row in rows],
        "sections": sections,
    }
    return render("replay.html", out, values)


def _panels(runs: Sequence[ReplayRun], curves: Sequence[tuple[str, str, str]], ceiling: FloatArray) -> list[Markup]:
    panels = []
    for curve, title, kind in curves:
        lines = _lines(runs, curve)
        if not lines:
            continue
        level = (float(np.nanmean(ceiling)), "noise ceiling") if curve == "spearman" else None
        panels.append(
            curve_panel(f"{title} over time", lines, "point in time", title, kind, level=level, size="medium")
        )
    return panels


def _lines(runs: Sequence[ReplayRun], curve: str) -> list[Curve]:
    """One line per selector that has the curve at all: mean, least and greatest over seeds."""
    names = list(dict.fromkeys(run.selector for run in runs))
    palette = colours(names)
    lines = []
    for name in names:
        values = np.array([run.curves[curve] for run in runs if run.selector == name])
        known = np.isfinite(values).all(axis=0)
        if not known.any():
            continue
        lines.append(
            Curve(
                label=name,
                x=np.flatnonzero(known).astype(np.float64),
                y=values[:, known].mean(axis=0),
                low=values[:, known].min(axis=0),
                high=values[:, known].max(axis=0),
                colour=palette[name],
            )
        )
    return lines
