"""What an evaluation found, for people and programs: one model, or two beside each other, paired by prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gps_ray.base.intervals import Estimate, mean_estimate
from gps_ray.base.types import ChunkHeader, FloatArray, IntArray, Prompt, RolloutSample
from gps_ray.loop.evaluation import Counts, avg_at_k, collect_counts, pass_at_k, reported_ks
from gps_ray.loop.suites import Suite
from gps_ray.loop.voting import maj_at_k
from gps_ray.study.report.render import render, visible

__all__ = ["COLUMNS", "SuiteResult", "as_json", "difference_rows", "differences", "table_rows", "write_page"]

COLUMNS = ("suite", "figure", "value", "95 % interval", "prompts")
MAX_SAMPLES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """Verdicts on a suite; ``samples`` are first responses in the order of the prompts. ``num_cached`` chunks were
    there before."""

    suite: Suite
    counts: Counts
    samples: tuple[RolloutSample, ...]
    num_cached: int

    @classmethod
    def of(cls, suite: Suite, headers: Sequence[ChunkHeader], num_cached: int) -> SuiteResult:
        return cls(
            suite=suite,
            counts=collect_counts([p.prompt_id for p in suite.prompts], headers, suite.rollouts_per_prompt),
            samples=tuple(sample for header in headers for sample in header.samples)[:MAX_SAMPLES],
            num_cached=num_cached,
        )

    @property
    def num_asked(self) -> IntArray:
        """[N]: responses that came, with or without a verdict. One without counts as not solved."""
        tried: IntArray = self.counts.num_tried + self.counts.num_failed
        return tried

    def figures(self) -> dict[str, FloatArray]:
        """Value per prompt [N] of avg@n, pass@k and maj@k, NaN where a prompt has too few responses."""
        right, tried = self.counts.num_right, self.num_asked
        if not tried.any():
            return {}
        ks = reported_ks(tried)[1:]
        found = {f"avg@{self.suite.rollouts_per_prompt}": avg_at_k(right, tried)}
        found |= {f"pass@{k}": pass_at_k(right, tried, k) for k in ks}
        return found | {f"maj@{k}": maj_at_k(self.counts.answers, k) for k in ks if self.counts.answers}

    def estimates(self) -> dict[str, Estimate]:
        return {name: estimate for name, v in self.figures().items() if (estimate := _estimate(v)) is not None}

    def by_label(self, label: Callable[[Prompt], str]) -> dict[str, Estimate]:
        """avg@n by level or source; prompts without one are in none."""
        if not self.num_asked.any():
            return {}
        rates = avg_at_k(self.counts.num_right, self.num_asked)
        labels = np.asarray([label(prompt) for prompt in self.suite.prompts], dtype=object)
        parts = {name: _estimate(rates[labels == name]) for name in sorted({*labels} - {""})}
        return {name: estimate for name, estimate in parts.items() if estimate is not None}

    def labelled(self) -> dict[str, dict[str, Estimate]]:
        """By level, and by source where there are several."""
        levels, sources = self.by_label(lambda p: p.level), self.by_label(lambda p: p.task)
        return {"level": levels, "source": sources if len(sources) > 1 else {}}


def _estimate(values: FloatArray, bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate | None:
    known = values[np.isfinite(values)]
    return mean_estimate(known, bounds=bounds) if len(known) else None


def differences(first: SuiteResult, second: SuiteResult) -> dict[str, Estimate]:
    """Figures of ``second`` minus those of ``first``, paired by prompt, with the interval of the paired differences."""
    mine, theirs = first.figures(), second.figures()
    paired = {name: _estimate(theirs[name] - mine[name], (-1.0, 1.0)) for name in mine if name in theirs}
    return {name: estimate for name, estimate in paired.items() if estimate is not None}


def as_json(results: Mapping[str, SuiteResult]) -> dict[str, Any]:
    """By suite: figures with their intervals, by level and source, how it was drawn and judged, what it cost."""
    return {name: _suite_json(result) for name, result in results.items()}


def _suite_json(result: SuiteResult) -> dict[str, Any]:
    suite, counts = result.suite, result.counts
    labelled = {
        f"by_{what}": {name: {**e.as_json(), "num_prompts": e.num_units} for name, e in parts.items()}
        for what, parts in result.labelled().items()
    }
    return {
        **{name: {**e.as_json(), "num_prompts": e.num_units} for name, e in result.estimates().items()},
        **labelled,
        "num_prompts": len(suite.prompts),
        "num_without_any_verdict": int(np.count_nonzero(counts.num_tried == 0)),
        "num_failed_responses": int(counts.num_failed.sum()),
        "num_responses": counts.num_rollouts,
        "truncated_ratio": counts.num_truncated / max(counts.num_rollouts, 1),
        "num_tokens": counts.num_tokens,
        "worker_s": counts.worker_s,
        "cpu_s": counts.cpu_s,
        "rollouts_per_prompt": suite.rollouts_per_prompt,
        "verifier": suite.task,
        "verifier_options": dict(suite.task_options),
        "sampling": asdict(suite.sampling),
    }


def table_rows(results: Mapping[str, SuiteResult]) -> list[tuple[str, ...]]:
    """For a table with ``COLUMNS``."""
    rows = []
    for name, result in results.items():
        parts = [*result.estimates().items()]
        parts += [(f"{what} {part}", e) for what, ps in result.labelled().items() for part, e in ps.items()]
        rows += [_row(name, figure, estimate, "{:.3f}") for figure, estimate in parts]
        counts = result.counts
        num = max(counts.num_rollouts, 1)
        costs = {
            "responses cut off": f"{counts.num_truncated / num:.1%}",
            "responses without a verdict": f"{int(counts.num_failed.sum())} of {counts.num_rollouts}",
            "tokens a response": f"{counts.num_tokens / num:.1f}",
            "worker seconds, CPU seconds": f"{counts.worker_s:.1f}, {counts.cpu_s:.1f}",
        }
        rows += [(name, what, value, "", str(len(result.suite.prompts))) for what, value in costs.items()]
    return rows


def difference_rows(by_suite: Mapping[str, Mapping[str, Estimate]]) -> list[tuple[str, ...]]:
    """For a table with ``COLUMNS``."""
    return [_row(name, figure, e, "{:+.3f}") for name, found in by_suite.items() for figure, e in found.items()]


def _row(name: str, figure: str, estimate: Estimate, form: str) -> tuple[str, ...]:
    ends = f"{form.format(estimate.low)} .. {form.format(estimate.high)}"
    return name, visible(figure, 60), form.format(estimate.value), ends, str(estimate.num_units)


def write_page(
    models: Mapping[str, Mapping[str, SuiteResult]],
    paired: Mapping[str, Mapping[str, Estimate]],
    out: Path,
) -> Path:
    """One page: a table per model, their differences where there are two, and first responses as text."""
    tables = [(f"Model {model}", table_rows(results)) for model, results in models.items()]
    if paired:
        tables.append(("Second model minus first, paired by prompt", difference_rows(paired)))
    samples = [(name, sample) for results in models.values() for name, r in results.items() for sample in r.samples]
    values = {
        "title": "Evaluation",
        "tables": [
            {"title": visible(title, 200), "rows": [{"cells": r, "colour": "transparent", "link": ""} for r in rows]}
            for title, rows in tables
        ],
        "columns": COLUMNS,
        "samples": [
            {
                "suite": name,
                "prompt": visible(sample.prompt_text),
                "response": visible(sample.response_text),
                "status": sample.status.name.lower(),
            }
            for name, sample in samples
        ],
        "sections": [],
    }
    return render("evaluation.html", out, values)
