"""From runs to figures with intervals: the seed is the unit.

Early is the mean over points in time 2 to 14, late over 30 to 43, counted from 0; everything else that follows the
prediction is the mean over all points from 2 on, because before that nobody knows anything. Figures have no value where
a selector predicts nothing or the series is too short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.predictor.calibration import noise_ceiling
from gps_ray.predictor.recorded import RecordedSeries
from gps_ray.study.over_seeds import OverSeeds, over_seeds
from gps_ray.study.replay.protocol import ReplayRun

__all__ = [
    "BASELINE",
    "COLUMNS",
    "EARLY",
    "LATE",
    "Summary",
    "as_json",
    "ceilings_over_time",
    "static_rows",
    "summarise",
    "table_rows",
]

EARLY, LATE, SETTLED = slice(2, 15), slice(30, 44), slice(2, None)

# Where it is among the selectors, the others' Spearman is also given as paired differences from it.
BASELINE = "beta_mean"

# selector -> figure -> its values over seeds
Summary = dict[str, dict[str, OverSeeds]]

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
    "useful AUC",
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


def as_json(summary: Summary) -> dict[str, dict[str, dict[str, object]]]:
    """The contents of ``replay.json``: selector, figure, {mean, low, high, by_seed}."""
    return {
        selector: {name: figure.as_json() for name, figure in figures.items()} for selector, figures in summary.items()
    }


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
        summary[selector] = {name: over_seeds([figures[name] for figures in seeds.values()]) for name in names}
        if BASELINE in per_seed and selector != BASELINE:
            summary[selector] |= _paired(seeds, per_seed[BASELINE])
        summary[selector] |= {name: over_seeds([value] * len(seeds)) for name, value in ceilings.items()}
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


def _paired(
    seeds: Mapping[int, Mapping[str, float]], baseline: Mapping[int, Mapping[str, float]]
) -> dict[str, OverSeeds]:
    return {
        f"{name}_minus_{BASELINE}": over_seeds(
            [seeds[seed][name] - baseline[seed][name] for seed in seeds if seed in baseline]
        )
        for name in ("spearman_early", "spearman_late")
    }


def _mean(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _cell(figure: OverSeeds) -> str:
    estimate = figure.estimate
    if estimate is None:
        return "-"
    digits = 0 if estimate.value >= 10 else 3
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.value:.{digits}f}" + (f"±{half:.{digits}f}" if np.isfinite(half) else "")
