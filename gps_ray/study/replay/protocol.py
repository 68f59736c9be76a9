"""One selector against one recorded series.

At every point in time the selector first predicts the whole pool; then it picks its share and sees only the outcomes
of that point for these prompts. With random reveals its picks are replaced by random ones, the same for every selector
of a seed, so that predictors are compared alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import BoolArray, FloatArray, IntArray, SelectionRequest
from gps_ray.base.useful import is_useful
from gps_ray.config import SelectionConfig
from gps_ray.predictor.calibration import (
    brier_score,
    expected_calibration_error,
    rank_correlation,
    useful_auc,
)
from gps_ray.predictor.history import PromptIndex
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.recorded import RecordedSeries, outcome_batch
from gps_ray.selection.interface import PromptSelector
from gps_ray.selection.oracle import OracleSelector
from gps_ray.selection.registry import build_selector

__all__ = ["CURVES", "ReplayRun", "batch_size", "replay"]

# One value per point in time; NaN where undefined.
CURVES = (
    "spearman",
    "spearman_seen",
    "spearman_unseen",
    "mae",
    "brier",
    "ece",
    "useful_auc",
    "useful_group_ratio",
    "swap_test",
    "swap_test_signed",
    "seconds",
)

# A rank correlation of fewer prompts than this says little.
_MIN_RANKED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRun:
    """``curves``: name of ``CURVES`` -> [T]; seconds are CPU-seconds of predict, select and observe together, swap_test
    is what the predictor itself reports of its shared context."""

    selector: str
    seed: int
    curves: dict[str, FloatArray]
    num_unique_prompts: int


def batch_size(series: RecordedSeries, batch_fraction: float) -> int:
    """Prompts per point in time. Raises ConfigError for a share outside (0, 1]."""
    if not 0 < batch_fraction <= 1:
        raise ConfigError(
            f"--batch-fraction: expected a share of the pool in (0, 1], got {batch_fraction:g}; for instance 0.05"
        )
    return max(1, round(batch_fraction * len(series.prompts)))


def replay(
    series: RecordedSeries,
    table: PromptTable,
    config: SelectionConfig,
    seed: int,
    reveal: Literal["selected", "random"] = "selected",
) -> ReplayRun:
    """``config.selector`` with ``config.num_prompts`` prompts per point; ``table`` holds the prompts of the series."""
    selector = build_selector(config, table, series.group_size, seed)
    if isinstance(selector, OracleSelector):
        selector.follow(lambda step: series.num_right[:, step] / series.num_tried)
    num_points = series.num_right.shape[1]
    curves = {name: np.full(num_points, np.nan) for name in CURVES}
    index, everything = PromptIndex(table), np.arange(len(series.prompts))
    seen = np.zeros(len(series.prompts), dtype=np.bool_)
    for step in range(num_points):
        started = time.process_time()
        posterior = selector.predict(everything, step)
        mean = None if posterior is None else np.asarray(posterior.mean(), dtype=np.float64)
        picks = _random_picks(seed, step, config.num_prompts, len(everything))
        if reveal == "selected":
            picks = _picks(selector, index, step, config.num_prompts, series.group_size)
        selector.observe(outcome_batch(step, picks, series.num_right[picks, step], series.num_tried[picks]))
        curves["seconds"][step] = time.process_time() - started
        learnt = selector.metrics()
        for name in ("swap_test", "swap_test_signed"):
            curves[name][step] = learnt.get(f"predictor/{name}", np.nan)
        for name, value in _judge(series, mean, seen, picks, step).items():
            curves[name][step] = value
        seen[picks] = True
    return ReplayRun(selector=config.selector, seed=seed, curves=curves, num_unique_prompts=int(seen.sum()))


def _random_picks(seed: int, step: int, num_picks: int, num_prompts: int) -> IntArray:
    return generator(seed, "replay/reveal", step).permutation(num_prompts)[:num_picks]


def _picks(selector: PromptSelector, index: PromptIndex, step: int, num_prompts: int, group_size: int) -> IntArray:
    """The selector's own choice. One round: what a selector throws away afterwards has been seen all the same."""
    request = SelectionRequest(
        step=step, round=0, num_prompts=num_prompts, group_size=group_size, num_missing=num_prompts
    )
    return index.rows(selector.select(request).prompt_ids)


def _judge(
    series: RecordedSeries, mean: FloatArray | None, seen: BoolArray, picks: IntArray, step: int
) -> dict[str, float]:
    """Quality of the prediction ``mean`` [N] made before the point, and of the picks."""
    right, tried = series.num_right[:, step], series.num_tried
    useful = is_useful(right[picks], tried[picks])
    quality = {"useful_group_ratio": float(useful.mean())}
    if mean is None:
        return quality
    rate = right / tried
    for name, part in (("spearman_seen", seen), ("spearman_unseen", ~seen)):
        if part.sum() >= _MIN_RANKED:
            quality[name] = rank_correlation(mean[part], rate[part])
    return {
        **quality,
        "spearman": rank_correlation(mean, rate),
        "mae": float(np.abs(mean - rate).mean()),
        "brier": brier_score(mean, right, tried),
        "ece": expected_calibration_error(mean, rate),
        "useful_auc": useful_auc(mean, right, tried, series.group_size),
    }
