"""The headline figures of one run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.run.metrics import (
    COST_CPU_S,
    COST_ROLLOUTS,
    COST_TOKENS,
    GUARD_IS_FALLEN,
    GUARD_SHARE,
    PROBES,
    ROLLOUTS_SAVED,
    VAL_PASS_1,
    VAL_PASS_1_HIGH,
    VAL_PASS_1_LOW,
)
from gps_ray.run.progress import format_duration
from gps_ray.study.report.run_data import RunData

__all__ = ["Headline", "headlines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One number with its name and what stands behind it."""

    label: str
    value: str
    detail: str = ""


def headlines(run: RunData) -> list[Headline]:
    """What one wants to know first. A number that the run does not have (yet) is "-"."""
    accuracy = run.series(VAL_PASS_1)[1]
    low, high = run.last(VAL_PASS_1_LOW), run.last(VAL_PASS_1_HIGH)
    interval = "" if low is None or high is None else f"95 % interval {100 * low:.1f} – {100 * high:.1f}"
    begin = f"from {_share(accuracy[0])}" if len(accuracy) > 1 else ""
    unique, num_groups = run.groups.num_unique_prompts, len(run.groups.step)
    wall = float(np.sum(run.series("timing_s/step")[1]))
    return [
        Headline(
            label="pass@1, held-out",
            value=_share(accuracy[-1] if len(accuracy) else None),
            detail=", ".join(filter(None, [begin, interval])),
        ),
        Headline(
            label="share of useful groups", value=_share(run.groups.useful_share()), detail="whole run, all slots"
        ),
        Headline(
            label="rollouts",
            value=f"{run.last(COST_ROLLOUTS) or 0:,.0f}",
            detail=f"{run.last(COST_TOKENS) or 0:,.0f} tokens{_against_uniform(run.last(ROLLOUTS_SAVED))}",
        ),
        Headline(
            label="CPU-seconds",
            value=f"{run.last(COST_CPU_S) or 0:,.0f}",
            detail=f"wall clock {format_duration(wall)}, evaluation included" if wall else "",
        ),
        Headline(
            label="unique prompts",
            value=f"{unique:,}" if unique else "-",
            detail=f"of {run.num_pool_prompts:,} in the pool, {num_groups:,} groups" if run.num_pool_prompts else "",
        ),
        Headline(
            label="Spearman, pool probe",
            value=_correlation(run.last(f"predictor/{PROBES[0]}_spearman")),
            detail=f"held-out probe {_correlation(run.last(f'predictor/{PROBES[1]}_spearman'))}",
        ),
        *_guard(run),
    ]


def _guard(run: RunData) -> list[Headline]:
    """What the guard of the selection saw, where there is one."""
    steps, fallen = run.series(GUARD_IS_FALLEN)
    if not len(steps):
        return []
    begins = steps[np.flatnonzero(np.diff(fallen, prepend=0.0) > 0)]
    detail = f"fell at step {', '.join(f'{step:.0f}' for step in begins)}" if len(begins) else "no fall was found"
    return [
        Headline(
            label="guard, share of even slots",
            value=_share(run.last(GUARD_SHARE)),
            detail=f"{detail}; {np.mean(fallen > 0):.0%} of the steps below",
        )
    ]


def _against_uniform(saved: float | None) -> str:
    """The estimate by the random slots, where there is one that says anything."""
    if saved is None or abs(saved) < 1:
        return ""
    return f"; uniform: {abs(saved):,.0f} {'more' if saved > 0 else 'fewer'} for as many useful groups (estimate)"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
