"""The report of a comparison over seeds: ``compare.json`` and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gps_ray.base.json_files import write_json
from gps_ray.run.metrics import VAL_PASS_1
from gps_ray.study.report import comparison_figures
from gps_ray.study.report.comparison_report import shared_sections
from gps_ray.study.report.render import ReportSection, Row, render, visible
from gps_ray.study.report.run_data import RunData, read_run
from gps_ray.study.report.seed_summary import SUMMARY_COLUMNS, summarise_seeds, summary_rows
from gps_ray.study.report.svg import colours

__all__ = ["write_seed_comparison"]


def write_seed_comparison(
    folders: Mapping[str, Mapping[int, Path]], out: Path, baseline: str, *, serial: bool
) -> dict[str, Any]:
    """Write ``out/compare.json`` and ``out/report.html`` for run folders by selector and seed; returns the summary."""
    runs = {name: {seed: read_run(path) for seed, path in of_seed.items()} for name, of_seed in folders.items()}
    summary = summarise_seeds(runs, baseline, serial=serial)
    write_json(out / "compare.json", summary)
    _write_page({name: [of_seed[seed] for seed in summary["seeds"]] for name, of_seed in runs.items()}, summary, out)
    return summary


def _write_page(runs: Mapping[str, Sequence[RunData]], summary: Mapping[str, Any], out: Path) -> None:
    palette = colours(list(runs))
    num_seeds = len(summary["seeds"])
    notes = [] if summary["runs_one_after_the_other"] else ["runs shared the machine: read no wall clock"]
    values = {
        "title": "Selectors compared",
        "num_runs": len(runs) * num_seeds,
        "note": f"{num_seeds} matched seeds" if num_seeds > 1 else "one seed, an illustration",
        "warnings": notes,
        "caption": "Accuracy: pass@1 in percent, mean of the last three evaluations. Differences (points) and ratios "
        f"are against {summary['baseline']}, paired by seed, with 95 % intervals over {num_seeds} seeds.",
        "costs": "“never” counts runs that did not get there and enter with their whole budget.",
        "columns": SUMMARY_COLUMNS,
        "rows": [
            {"cells": [visible(cell, 60) for cell in cells], "colour": palette[name], "link": ""}
            for name, cells in zip(runs, summary_rows(summary), strict=True)
        ],
        "sections": _sections(runs, summary),
        "footer": "The unit of every interval is the seed.",
    }
    render("comparison.html", out / "report.html", values)


def _sections(runs: Mapping[str, Sequence[RunData]], summary: Mapping[str, Any]) -> list[ReportSection]:
    ratios = [
        panel
        for cost, title in (("rollouts_to_target", "rollouts to target"), ("cpu_s_to_target", "CPU-seconds to target"))
        for panel in comparison_figures.ratio_panel(summary, cost, title)
    ]
    return [
        ReportSection(
            anchor="target",
            title="Cost to the baseline's accuracy",
            how="Geometric mean of the ratios over seeds with its 95 % interval; left of the line is cheaper. "
            "Hollow: some runs never got there and count with their whole budget, so the truth lies further right.",
            rows=[Row(panels=ratios, size="medium")],
            empty="Only the baseline was run.",
        ),
        ReportSection(
            anchor="accuracy",
            title="Accuracy",
            how="pass@1 on the held-out evaluation set: mean over seeds with its 95 % interval.",
            rows=[Row(panels=comparison_figures.curves(runs, VAL_PASS_1, "pass@1"), size="medium")],
        ),
        *shared_sections(runs),
    ]
