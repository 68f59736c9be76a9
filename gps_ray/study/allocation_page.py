"""What ``jobs.allocate`` found, as one page: the table, and every allocator over the budgets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from gps_ray.allocation.comparison import SUMMARY_COLUMNS, summary_rows
from gps_ray.study.report.charts import Curve, curve_panel
from gps_ray.study.report.render import ReportSection, Row, render, visible
from gps_ray.study.report.svg import PALETTE, colours

__all__ = ["write_allocation_page"]

_WHAT = {
    "equal": "every prompt the same number",
    "length_bins": "by the length of the text, in bins",
    "predicted_bins": "by the predicted success rate, in bins",
    "expected_gain": "by the whole posterior",
    "plug_in": "by the predicted success rate as if it were the truth",
    "oracle": "by the recorded success rate: the ceiling",
}


def write_allocation_page(summary: Mapping[str, Any], source: str, out: Path) -> Path:
    """``summary`` is that of ``gps_ray.allocation.comparison.summarise``, ``source`` says in words what was allocated
    over. Returns the page's path."""
    num_seeds = summary["num_seeds"]
    names = list(dict.fromkeys(name for allocators in summary["budgets"].values() for name in allocators))
    palette = colours(names)
    about = "mean [95 % interval] over seeds" if num_seeds > 1 else "one seed, which bounds nothing"
    rank = summary["spearman"]["mean"]
    section = ReportSection(
        anchor="curves",
        title="By budget",
        how="Solved: at least one sample of the prompt is right. Points: share of solved prompts minus that of equal "
        "allocation. Saved: how many samples fewer than equal allocation it takes to a share that both reach.",
        rows=[Row(panels=_panels(summary, names, palette), size="wide")],
    )
    values = {
        "title": "Test-time samples allocated",
        "tags": [
            visible(source, 120),
            f"{num_seeds} seeds" if num_seeds > 1 else "one seed",
            f"{', '.join(f'{number:,}' for number in sorted(set(summary['num_prompts'])))} prompts",
            "predicted against recorded success: Spearman " + ("-" if rank is None else f"{rank:.2f}"),
        ],
        "caption": f"{about[0].upper()}{about[1:]}. Budget: mean samples per prompt.",
        "columns": SUMMARY_COLUMNS,
        "rows": [
            {"cells": cells, "colour": palette.get(cells[1], PALETTE[0]), "link": ""} for cells in summary_rows(summary)
        ],
        "allocators": [(name, _WHAT.get(name, "")) for name in names],
        "sections": [section],
    }
    return render("allocation.html", out, values)


def _panels(summary: Mapping[str, Any], names: list[str], palette: Mapping[str, str]) -> list[Markup]:
    return [
        curve_panel(
            f"{title} against the budget",
            [_curve(summary, name, quantity, scale, palette[name]) for name in names],
            "mean samples per prompt",
            title,
            kind,
            size="wide",
        )
        for quantity, title, kind, scale in (
            ("pass_rate", "prompts solved", "share", 1.0),
            ("points_gained", "points over equal allocation", "number", 1.0),
            ("samples_saved", "samples saved, %", "number", 100.0),
        )
    ]


def _curve(summary: Mapping[str, Any], name: str, quantity: str, scale: float, colour: str) -> Curve:
    found = [allocators[name][quantity] for allocators in summary["budgets"].values()]
    bounded = all(estimate["low"] is not None for estimate in found)
    mean, low, high = (
        np.array([np.nan if estimate[end] is None else scale * estimate[end] for estimate in found])
        for end in ("mean", "low", "high")
    )
    return Curve(
        label=name,
        x=np.array([float(budget) for budget in summary["budgets"]]),
        y=mean,
        low=low if bounded else None,
        high=high if bounded else None,
        colour=colour,
        marker=True,
        dashed=name in ("equal", "oracle"),
    )
