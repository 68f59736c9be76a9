"""The report of several runs beside each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from gps_ray.base.errors import DataError
from gps_ray.run.metrics import USEFUL_RATIO, VAL_PASS_1
from gps_ray.study.report import comparison_figures, run_figures
from gps_ray.study.report.render import USEFUL_STEPS, USEFUL_WHAT, ReportSection, Row, render, visible
from gps_ray.study.report.run_data import RunData, read_run
from gps_ray.study.report.svg import colours
from gps_ray.study.report.tables import COLUMNS, ONE_SEED_NOTE, ComparisonTable, compare

__all__ = ["comparison_table", "named_runs", "shared_sections", "write_comparison"]


def comparison_table(
    runs: Mapping[str, Path], baseline: str | None = None, note: str = ONE_SEED_NOTE
) -> ComparisonTable:
    """The comparison of run folders as data; see ``gps_ray.study.report.tables``."""
    return compare({name: read_run(path) for name, path in runs.items()}, baseline, note)


def write_comparison(
    runs: Mapping[str, Path],
    out: Path,
    baseline: str | None = None,
    title: str = "What the selection bought",
    note: str = ONE_SEED_NOTE,
) -> Path:
    """Write one page with all ``runs`` (name -> run folder) on the same axes; names take colours in their order.

    ``baseline`` is one of the names; null is "uniform" where there is one, else the first. Raises DataError where a
    folder is no run's or ``baseline`` is not among the names.
    """
    data = {name: read_run(path) for name, path in runs.items()}
    table = compare(data, baseline, note)
    palette = colours(list(data))
    warnings = [
        f"{visible(name, 40)}: {visible(text, 200)}"
        for name, run in data.items()
        for text in ([*run.notes, "not finished"] if run.num_steps_done < run.num_steps_planned else run.notes)
    ]
    values = {
        "title": title,
        "num_runs": len(data),
        "note": note,
        "warnings": warnings,
        "caption": table.caption,
        "costs": "“>” marks a run that never got there and counts with its whole budget; (0.50×) is the ratio to the "
        "baseline.",
        "columns": COLUMNS,
        "rows": [
            {
                "cells": [visible(cell, 60) for cell in cells],
                "colour": palette[row.name],
                "link": _link(runs[row.name], out),
            }
            for row, cells in zip(table.rows, table.cells(), strict=True)
        ],
        "sections": _comparison_sections(data, table),
        "footer": "The intervals are 95 % over prompts of one evaluation set; they say nothing about other seeds.",
    }
    return render("comparison.html", out, values)


def named_runs(directories: Sequence[Path]) -> dict[str, Path]:
    """A name per run folder: its own, with as many parents before it as it takes to tell all apart."""
    paths = [directory.resolve() for directory in directories]
    if len(set(paths)) < len(paths):
        raise DataError("expected different run folders to compare, got one of them twice; give each once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, directories, strict=True))


def _link(run_directory: Path, out: Path) -> str:
    """Relative address of the run's own report, empty where it has none."""
    report = run_directory / "report.html"
    return quote(os.path.relpath(report, out.parent)) if report.is_file() else ""


_OVER_SEEDS = "Mean of ten steps, over seeds with its 95 % interval."


def shared_sections(runs: comparison_figures.NamedRuns) -> list[ReportSection]:
    """What a comparison shows of any runs, one per name or several: useful groups, reuse, predictors, cost."""
    over_seeds = any(len(of_seeds) > 1 for of_seeds in runs.values())
    return [
        ReportSection(
            anchor="useful",
            title="Useful groups and prompt reuse",
            how=f"{USEFUL_WHAT} {_OVER_SEEDS if over_seeds else USEFUL_STEPS}",
            rows=[
                Row(
                    panels=[
                        *comparison_figures.curves(runs, USEFUL_RATIO, "useful groups", smooth=True),
                        *comparison_figures.reuse_curves(runs),
                    ],
                    size="medium",
                )
            ],
            empty="No step yet.",
        ),
        ReportSection(
            anchor="predictor",
            title="Predictors and cost",
            how="Rank correlation on the two probe sets (only selectors that predict), and what each phase cost.",
            rows=[
                Row(
                    panels=[*comparison_figures.probe_curves(runs), *comparison_figures.phase_costs(runs)],
                    size="medium",
                )
            ],
        ),
    ]


def _comparison_sections(runs: Mapping[str, RunData], table: ComparisonTable) -> list[ReportSection]:
    alone = {name: [run] for name, run in runs.items()}
    target = None if table.target is None else (table.target, "target")
    return [
        ReportSection(
            anchor="accuracy",
            title="Accuracy",
            how="pass@1 on the held-out evaluation set against what it cost, each evaluation as measured.",
            rows=[
                Row(
                    panels=[
                        *comparison_figures.curves(alone, VAL_PASS_1, "pass@1", level=target),
                        *comparison_figures.final_panel(table),
                    ],
                    size="medium",
                )
            ],
            empty="No evaluation yet.",
        ),
        *shared_sections(alone),
        ReportSection(
            anchor="outcomes",
            title="Where the groups went",
            how="Share of each run's groups in which every response was wrong, responses differed, or all were right.",
            rows=[
                Row(
                    panels=[p for name, run in runs.items() for p in run_figures.group_panels(run, name)], size="medium"
                )
            ],
            empty="No step yet.",
        ),
        *(
            ReportSection(
                anchor=f"difficulty-{i}",
                title=f"Difficulty: {visible(name, 40)}",
                how="What this selector took from the pool, by level of the data set.",
                rows=[Row(panels=run_figures.level_maps(run), size="wide")],
                empty="No step yet, or the data set has no levels.",
            )
            for i, (name, run) in enumerate(runs.items())
        ),
    ]
