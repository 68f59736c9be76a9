"""The report of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gps_ray.run.metrics import NUM_VERIFIER_NOTES
from gps_ray.study.report import predictor_figures, run_figures
from gps_ray.study.report.headlines import headlines
from gps_ray.study.report.render import USEFUL_STEPS, USEFUL_WHAT, ReportSection, Row, render, visible
from gps_ray.study.report.run_data import RunData, SampleRow, read_run

__all__ = ["write_report"]

MAX_SAMPLE_STEPS = 12
MAX_SAMPLES_PER_STEP = 8
MAX_VERIFIER_NOTES = 100


def _samples(rows: Sequence[SampleRow]) -> list[dict[str, Any]]:
    """Readable responses by step: the first, the last and steps evenly between."""
    steps = sorted({row.step for row in rows})
    if len(steps) > MAX_SAMPLE_STEPS:
        last = len(steps) - 1
        steps = [steps[round(i * last / (MAX_SAMPLE_STEPS - 1))] for i in range(MAX_SAMPLE_STEPS)]
    groups = []
    for step in steps:
        kept = [row for row in rows if row.step == step]
        shown = [
            {
                "status": visible(row.status, 20),
                "kind": row.status if row.status in ("right", "wrong", "failed") else "",
                "reward": f"{row.reward:g}",
                "prompt": visible(row.prompt_text),
                "response": visible(row.response_text),
            }
            for row in _spread(kept, MAX_SAMPLES_PER_STEP)
        ]
        groups.append({"step": step, "rows": shown, "num_kept": len(kept)})
    return groups


def _spread(rows: Sequence[SampleRow], limit: int) -> list[SampleRow]:
    """At most ``limit`` rows, evenly over the list, so that more than one prompt is seen."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _policy_sections(run: RunData) -> list[ReportSection]:
    """What the policy learnt, and from what."""
    return [
        ReportSection(
            anchor="accuracy",
            title="Accuracy",
            how="pass@1 on the held-out evaluation set with its 95 % interval over prompts, against what it cost. "
            "Costs count every rollout made for training, kept or dropped.",
            rows=[
                Row(panels=[*run_figures.pass_rate_panels(run), *run_figures.level_curve_panels(run)], size="medium")
            ],
            empty="No evaluation yet.",
        ),
        ReportSection(
            anchor="responses",
            title="Rewards and responses",
            how="Of the rollouts that were trained on, with the evaluation's beside them where it measures the same. "
            f"{USEFUL_STEPS} Rewards follow the selection: a selector that looks for harder prompts lowers them.",
            rows=[Row(panels=run_figures.rollout_panels(run), size="medium")],
            empty="No step yet.",
        ),
        ReportSection(
            anchor="useful",
            title="Useful groups",
            how=f"{USEFUL_WHAT} {USEFUL_STEPS}",
            rows=[Row(panels=[*run_figures.useful_ratio_panels(run), *run_figures.group_panels(run)], size="medium")],
            empty="No step yet.",
        ),
        ReportSection(
            anchor="difficulty",
            title="Difficulty over time",
            how="How hard the pool is for the policy (upper row: a random part of the pool, rolled out apart from "
            "training), and what the selector took from it (below). A good selector stays where rates are near 50 % as "
            "that place moves.",
            rows=[
                Row(panels=predictor_figures.probe_maps(run), size="wide"),
                Row(panels=run_figures.level_maps(run), size="wide"),
            ],
        ),
    ]


def _component_sections(run: RunData) -> list[ReportSection]:
    """How the predictor, the machine, the selector and the learner did."""
    return [
        ReportSection(
            anchor="predictor",
            title="Predicted against realised success",
            how="On two fixed probe sets, predicted before they are rolled out. Black: mean of each tenth with its "
            "95 % interval; on the dotted line the predictor is calibrated. Correlation within the selected "
            "batch is not shown: it is cut to a narrow range and misleads.",
            rows=[
                Row(panels=predictor_figures.calibration_panels(run), size="wide"),
                Row(
                    panels=[*predictor_figures.spearman_panels(run), *predictor_figures.swap_test_panels(run)],
                    size="wide",
                ),
            ],
            empty="This selector predicts nothing, or no probe was measured yet.",
        ),
        ReportSection(
            anchor="cost",
            title="Cost",
            how="Where the time went. Phases overlap: the next prompts are selected while the policy is updated.",
            rows=[Row(panels=run_figures.cost_panels(run), size="wide")],
        ),
        ReportSection(
            anchor="reuse",
            title="Prompt reuse",
            how="A selector that keeps coming back to a few prompts shows here as a flat curve.",
            rows=[Row(panels=run_figures.reuse_panels(run), size="wide")],
        ),
        ReportSection(
            anchor="learner",
            title="Learner",
            how="What the policy update reports. Pale: each step; strong: mean of five.",
            rows=[Row(panels=run_figures.learner_panels(run))],
        ),
    ]


def write_report(run_directory: Path, out: Path | None = None) -> Path:
    """Write ``report.html`` of one run (into its folder, or to ``out``) and return its path.

    Works at any moment of a run: what is not there yet is left out. Raises DataError where the folder is no run's.
    """
    run = read_run(run_directory)
    settings = [("selection", "selector"), ("data", "task"), ("rollout", "engine"), ("run", "seed")]
    facts = {key: run.setting(section, key) for section, key in settings}
    planned = run.num_steps_planned
    tags = [visible(f"{name} {value}", 70) for name, value in facts.items() if value is not None]
    tags.append(f"{run.num_steps_done} of {planned} steps" if planned else f"{run.num_steps_done} steps")
    unfinished = ["not finished"] if run.num_steps_done < planned else []
    values = {
        "title": visible(run.name, 120),
        "tags": tags,
        "warnings": unfinished + [visible(note, 200) for note in run.notes],
        "cards": headlines(run),
        "sections": [*_policy_sections(run), *_component_sections(run)],
        "samples": _samples(run.samples),
        "verifier_notes": [
            {"step": step, "note": visible(note, 1000)} for step, note in run.verifier_notes[-MAX_VERIFIER_NOTES:]
        ],
        "num_verifier_notes": int(run.series(NUM_VERIFIER_NOTES)[1].sum()),
        "first_prompt": None
        if run.first_prompt is None
        else {"text": visible(run.first_prompt[0], 4000), "num_tokens": run.first_prompt[1]},
        "config": visible(run.config_text, 200_000),
    }
    return render("run.html", out if out is not None else run_directory / "report.html", values)
