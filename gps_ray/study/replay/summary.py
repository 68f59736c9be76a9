"""From runs to figures with intervals: the seed is the unit.

Early is the mean over points in time 2 to 14, late over 30 to 43, counted from 0; everything else that follows the
prediction is the mean over all points from 2 on, because before that nobody knows anything. Figures are null where a
selector predicts nothing or the series is too short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gps_ray.base.intervals import finite_or_none, json_estimate
from gps_ray.base.types import FloatArray
from gps_ray.predictor.calibration import noise_ceiling
from gps_ray.predictor.recorded import RecordedSeries
from gps_ray.study.replay.protocol import ReplayRun

__all__ = [
    "BASELINE",
    "COLUMNS",
    "EARLY",
    "LATE",
    "Summary",
    "ceilings_over_time",
    "estimate",
    "static_rows",
    "summarise",
    "table_rows",
]

EARLY, LATE, SETTLED = slice(2, 15), slice(30, 44), slice(2, None)

# Where it is among the selectors, the others' Spearman is also given as paired differences from it.
BASELINE = "beta_mean"

# selector -> figure -> {mean, low, high, values}; low and high: 95 % interval over seeds; values: one per seed.
Summary = dict[str, dict[str, dict[str, Any]]]

_WINDOWS: Mapping[str, tuple[str, slice]] = {
    "spearman_early": ("spearman", EARLY),
    "spearman_late": ("spearman", LATE),
    "spearman_seen": ("spearman_seen", SETTLED),
    "spearman_unseen": ("spearman_unseen", SETTLED),
    "mae": ("mae", SETTLED),
    "brier": ("brier", SETTLED),
    "ece": ("ece", SETTLED),
    "ece_early": ("ece", EARLY),
    "ece_late": ("ece", LATE),
    "useful_auc": ("useful_auc", SETTLED),
    "useful_group_ratio": ("useful_group_ratio", slice(None)),
    "swap_test": ("swap_test", SETTLED),
    "swap_test_signed": ("swap_test_signed", SETTLED),
    "seconds_per_step": ("seconds", slice(None)),
}

COLUMNS = (
    "selector",
    "spearman early",
    "late",
    "seen",
    "unseen",
    "ece early",
    "late",
    "zero-var AUC",
    "useful",
    "unique",
    "s/step",
)
_SHOWN = (
    "spearman_early",
    "spearman_late",
    "spearman_seen",
    "spearman_unseen",
    "ece_early",
    "ece_late",
    "useful_auc",
    "useful_group_ratio",
    "num_unique_prompts",
    "seconds_per_step",
)


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """{mean, low, high, values} over the seeds that have a value; null where none has, or one seed bounds nothing."""
    return {**json_estimate(values), "values": [finite_or_none(value) for value in values]}


def summarise(runs: Sequence[ReplayRun], ceiling: FloatArray) -> Summary:
    """All figures of every selector, in the order of the runs, each with the noise ceiling [T] of the same windows."""
    ceilings = {
        "noise_ceiling": _mean(ceiling[SETTLED]),
        "noise_ceiling_early": _mean(ceiling[EARLY]),
        "noise_ceiling_late": _mean(ceiling[LATE]),
    }
    per_seed: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        figures = {name: _mean(run.curves[curve][window]) for name, (curve, window) in _WINDOWS.items()}
        figures["num_unique_prompts"] = float(run.num_unique_prompts)
        per_seed.setdefault(run.selector, {})[run.seed] = figures
    summary: Summary = {}
    for selector, seeds in per_seed.items():
        names = next(iter(seeds.values()))
        summary[selector] = {name: estimate([figures[name] for figures in seeds.values()]) for name in names}
        if BASELINE in per_seed and selector != BASELINE:
            summary[selector] |= _paired(seeds, per_seed[BASELINE])
        summary[selector] |= {name: estimate([value] * len(seeds)) for name, value in ceilings.items()}
    return summary


def ceilings_over_time(series: RecordedSeries) -> FloatArray:
    """[T]: the Spearman that the true success rates would reach at each point in time."""
    return np.array([noise_ceiling(right, series.num_tried) for right in series.num_right.T])


def table_rows(summary: Summary) -> list[tuple[str, ...]]:
    """One row of text per selector, for ``COLUMNS``: mean +- half the interval."""
    return [(selector, *(_cell(figures[name]) for name in _SHOWN)) for selector, figures in summary.items()]


def static_rows(summary: Summary, labels: Sequence[int]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the held-out Spearman by number of labels; selectors that predict nothing are left out."""
    columns = ("selector", *(f"{num_labels:,} labels" for num_labels in labels))
    names = [f"static_spearman_{num_labels}" for num_labels in labels]
    rows = [
        (selector, *(_cell(figures[name]) for name in names))
        for selector, figures in summary.items()
        if all(name in figures for name in names)
    ]
    return columns, rows


def _paired(seeds: Mapping[int, Mapping[str, float]], baseline: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    return {
        f"{name}_minus_{BASELINE}": estimate(
            [seeds[seed][name] - baseline[seed][name] for seed in seeds if seed in baseline]
        )
        for name in ("spearman_early", "spearman_late")
    }


def _mean(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _cell(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "-"
    digits = 0 if figure["mean"] >= 10 else 3
    half = "" if figure["low"] is None else f"±{(figure['high'] - figure['low']) / 2:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{half}"
