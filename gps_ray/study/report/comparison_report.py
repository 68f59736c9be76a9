"""The report of several arms beside each other, under one seed or many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.run.metrics import USEFUL_RATIO, VAL_PASS_1
from gps_ray.study.report import comparison_figures, run_figures
from gps_ray.study.report.render import USEFUL_STEPS, USEFUL_WHAT, ReportSection, Row, render, visible
from gps_ray.study.report.run_data import RunData, read_run
from gps_ray.study.report.summary import ComparisonSummary, summarise
from gps_ray.study.report.svg import colours
from gps_ray.study.report.tables import caption, cells, columns, crossing_words, seeds_note

__all__ = ["Comparison", "baseline_of", "named_runs", "read_comparison", "write_comparison"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``runs``: arm -> the compared runs, one per seed; ``folders``: arm -> their folders; ``warnings``: what the
    reader should know of them."""

    summary: ComparisonSummary
    runs: Mapping[str, Sequence[RunData]]
    folders: Mapping[str, Sequence[Path]]
    warnings: Sequence[str]


def baseline_of(arms: Iterable[str], asked: str | None) -> str:
    """The arm that sets the target: the one asked for, else "uniform" where there is one, else the first.

    Raises ConfigError where the one asked for is not among them.
    """
    names = list(arms)
    if asked is not None and asked not in names:
        raise ConfigError(f"--baseline: expected one of {', '.join(names)}, got {asked!r}; name one of them")
    return asked or ("uniform" if "uniform" in names else names[0])


def read_comparison(
    folders: Mapping[str, Mapping[int, Path]], baseline: str | None = None, *, serial: bool | None = None
) -> Comparison:
    """Run folders by arm and seed. Raises DataError where there is none, one is no run's, or the arms share no seed;
    ConfigError for an unknown ``baseline``."""
    if not folders:
        raise DataError("expected at least one run to compare, got none; name run folders")
    chosen = baseline_of(folders, baseline)
    runs = {name: {seed: read_run(path) for seed, path in of_seed.items()} for name, of_seed in folders.items()}
    summary = summarise(runs, chosen, serial=serial)
    return Comparison(
        summary=summary,
        runs={name: [of_seed[seed] for seed in summary.seeds] for name, of_seed in runs.items()},
        folders={name: [of_seed[seed] for seed in summary.seeds] for name, of_seed in folders.items()},
        warnings=_warnings(runs, summary),
    )


def _warnings(runs: Mapping[str, Mapping[int, RunData]], summary: ComparisonSummary) -> list[str]:
    warnings = ["runs shared the machine: read no wall clock"] if summary.serial is False else []
    left_out = sorted({seed for of_seed in runs.values() for seed in of_seed} - set(summary.seeds))
    if left_out:
        seeds = ", ".join(map(str, left_out))
        warnings.append(f"left out, for want of an evaluation under every arm: seed {seeds}")
    for name, of_seed in runs.items():
        for seed, run in of_seed.items():
            about = visible(name, 40) + (f", seed {seed}" if len(of_seed) > 1 else "")
            unfinished = ["not finished"] if run.num_steps_done < run.num_steps_planned else []
            warnings += [f"{about}: {visible(text, 200)}" for text in (*run.notes, *unfinished)]
    return warnings


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


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write one page with all arms on the same axes; they take colours in their order. Returns its path."""
    summary = comparison.summary
    palette = colours(list(comparison.runs))
    one_seed = len(summary.seeds) == 1
    values = {
        "title": "Runs compared",
        "num_runs": sum(len(of_seeds) for of_seeds in comparison.runs.values()),
        "note": seeds_note(summary),
        "warnings": comparison.warnings,
        "caption": caption(summary),
        "crossing": crossing_words(summary),
        "costs": "“>” marks a run that never got there and counts with its whole budget; (0.50×) is the ratio to the "
        "baseline."
        if one_seed
        else "“never” counts runs that did not get there and enter with their whole budget.",
        "columns": [column.title for column in columns(summary)],
        "rows": [
            {
                "cells": [visible(cell, 60) for cell in row],
                "colour": palette[arm.name],
                "link": _link(comparison.folders[arm.name], out),
            }
            for arm, row in zip(summary.arms, cells(summary), strict=True)
        ],
        "sections": _sections(comparison),
        "footer": "The intervals are 95 % over prompts of one evaluation set; they say nothing about other seeds."
        if one_seed
        else "The unit of every interval is the seed.",
    }
    return render("comparison.html", out, values)


def _link(run_directories: Sequence[Path], out: Path) -> str:
    """Relative address of an only run's own report, empty where it has none or there are several runs."""
    report = run_directories[0] / "report.html"
    return quote(os.path.relpath(report, out.parent)) if len(run_directories) == 1 and report.is_file() else ""


def _sections(comparison: Comparison) -> list[ReportSection]:
    runs, summary = comparison.runs, comparison.summary
    one_seed = len(summary.seeds) == 1
    smoothed = USEFUL_STEPS if one_seed else "Mean of ten steps, over seeds with its 95 % interval."
    useful = comparison_figures.curves(runs, USEFUL_RATIO, "useful groups", smooth=True)
    predictors = [*comparison_figures.probe_curves(runs), *comparison_figures.phase_costs(runs)]
    sections = [
        *_accuracy_sections(comparison),
        ReportSection(
            anchor="useful",
            title="Useful groups and prompt reuse",
            how=f"{USEFUL_WHAT} {smoothed}",
            rows=[Row(panels=[*useful, *comparison_figures.reuse_curves(runs)], size="medium")],
            empty="No step yet.",
        ),
        ReportSection(
            anchor="predictor",
            title="Predictors and cost",
            how="Rank correlation on the two probe sets (only selectors that predict), and what each phase cost.",
            rows=[Row(panels=predictors, size="medium")],
        ),
    ]
    # What is drawn of one run alone would be a page of its own for each of many seeds.
    return sections + _run_sections({name: of_seeds[0] for name, of_seeds in runs.items()}) if one_seed else sections


def _accuracy_sections(comparison: Comparison) -> list[ReportSection]:
    runs, summary = comparison.runs, comparison.summary
    over_seeds = "" if len(summary.seeds) == 1 else ", mean over seeds with its 95 % interval"
    level = None if summary.target is None else (summary.target, "target")
    accuracy = [
        *comparison_figures.curves(runs, VAL_PASS_1, "pass@1", level=level),
        *comparison_figures.final_panel(summary),
    ]
    ratios = [
        panel
        for cost, title in (("rollouts", "rollouts to target"), ("cpu_s", "CPU-seconds to target"))
        for panel in comparison_figures.ratio_panel(summary, cost, title)
    ]
    return [
        ReportSection(
            anchor="accuracy",
            title="Accuracy",
            how=f"pass@1 on the held-out evaluation set against what it cost{over_seeds}.",
            rows=[Row(panels=accuracy, size="medium")],
            empty="No evaluation yet.",
        ),
        ReportSection(
            anchor="target",
            title="Cost to the baseline's accuracy",
            how="Ratio to the baseline (over seeds the geometric mean with its 95 % interval); left of the line is "
            "cheaper. Hollow: some runs never got there and count with their whole budget, so the truth lies further "
            "right.",
            rows=[Row(panels=ratios, size="medium")],
            empty="No evaluation yet, or only the baseline was run.",
        ),
    ]


def _run_sections(runs: Mapping[str, RunData]) -> list[ReportSection]:
    outcomes = [panel for name, run in runs.items() for panel in run_figures.group_panels(run, name)]
    return [
        ReportSection(
            anchor="outcomes",
            title="Where the groups went",
            how="Share of each run's groups in which every response was wrong, responses differed, or all were right.",
            rows=[Row(panels=outcomes, size="medium")],
            empty="No step yet.",
        ),
        *(
            ReportSection(
                anchor=f"difficulty-{i}",
                title=f"Difficulty: {visible(name, 40)}",
                how="What this arm took from the pool, by level of the data set.",
                rows=[Row(panels=run_figures.level_maps(run), size="wide")],
                empty="No step yet, or the data set has no levels.",
            )
            for i, (name, run) in enumerate(runs.items())
        ),
    ]
