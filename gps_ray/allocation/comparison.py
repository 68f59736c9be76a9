"""Every allocator on the same prompts with the same total, and what each would have solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gps_ray.allocation.bins import fit_bins
from gps_ray.allocation.gains import rate_gains
from gps_ray.allocation.simulation import AllocationResult, measure, pass_table
from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.greedy import equal_order, sample_order
from gps_ray.base.intervals import json_estimate
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.predictor.calibration import rank_correlation
from gps_ray.predictor.interface import Posterior
from gps_ray.predictor.recorded import RecordedOutcomes

__all__ = [
    "ALLOCATORS",
    "SUMMARY_COLUMNS",
    "AllocationSettings",
    "Comparison",
    "compare_allocators",
    "summarise",
    "summary_rows",
]

SUMMARY_COLUMNS = ("budget", "allocator", "pass rate (%)", "points over equal", "samples saved (%)")

# What an allocator knows of a prompt: nothing; the length of its text; the predicted success rate, binned; the whole
# posterior; its mean alone; the recorded success rate itself.
ALLOCATORS = ("equal", "length_bins", "predicted_bins", "expected_gain", "plug_in", "oracle")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationSettings:
    """``budgets``: mean samples per prompt, each between the ``minimum`` and ``maximum`` of a single prompt."""

    budgets: tuple[int, ...] = (2, 4, 8)
    minimum: int = 0
    maximum: int = 64
    num_bins: int = 8

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not 0 <= self.minimum <= budget <= self.maximum:
                raise ConfigError(
                    f"--budgets: expected mean samples per prompt between --minimum {self.minimum} and --maximum "
                    f"{self.maximum}, got {budget}; change one of the three"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The predictor's rank correlation with the recorded rates, and results by budget and allocator."""

    spearman: float
    num_prompts: int
    results: Mapping[int, Mapping[str, AllocationResult]]


def compare_allocators(
    fitted_on: RecordedOutcomes,
    fitted_mean: FloatArray,
    spent_on: RecordedOutcomes,
    posterior: Posterior,
    settings: AllocationSettings,
    seed: int,
) -> Comparison:
    """Spend each budget over the prompts ``spent_on`` [N] with every allocator.

    Bins are fitted on other prompts that the predictor has not learnt from: ``fitted_on`` [K], with its predicted
    ``fitted_mean`` [K]. ``posterior`` is about ``spent_on``.
    """
    if min(len(fitted_on.prompts), len(spent_on.prompts)) < settings.num_bins:
        raise DataError(
            f"outcomes: {len(fitted_on.prompts)} prompts to fit {settings.num_bins} bins on and "
            f"{len(spent_on.prompts)} to allocate over are too few; record more prompts"
        )
    mean = np.asarray(posterior.mean(), dtype=np.float64)
    rates = spent_on.num_right / spent_on.num_tried
    table = pass_table(spent_on.num_right, spent_on.num_tried, settings.maximum)

    def binned(scores: FloatArray, at: FloatArray) -> FloatArray:
        bins = fit_bins(scores, fitted_on.num_right, fitted_on.num_tried, settings.num_bins)
        return bins.gains(at, settings.maximum)

    gains = {
        "length_bins": binned(_lengths(fitted_on), _lengths(spent_on)),
        "predicted_bins": binned(fitted_mean, mean),
        "expected_gain": posterior.expected_gains(settings.maximum, generator(seed, "allocation/gains")),
        "plug_in": rate_gains(mean, settings.maximum),
        "oracle": rate_gains(rates, settings.maximum),
    }
    return Comparison(
        spearman=rank_correlation(mean, rates),
        num_prompts=len(rates),
        results={budget: _spend(gains, table, budget * len(rates), settings.minimum) for budget in settings.budgets},
    )


def _lengths(recorded: RecordedOutcomes) -> FloatArray:
    return np.array([len(prompt) for prompt in recorded.prompts], dtype=np.float64)


def _spend(gains: Mapping[str, FloatArray], table: FloatArray, total: int, minimum: int) -> dict[str, AllocationResult]:
    equal = equal_order(len(table), total)
    orders = {"equal": equal} | {name: sample_order(gain, total, minimum) for name, gain in gains.items()}
    return {name: measure(orders[name], equal, table) for name in ALLOCATORS}


def summarise(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Means over seeds (or runs) with 95 % intervals, ready for JSON: spearman, budgets / allocator / quantity."""

    quantities = ("pass_rate", "points_gained", "samples_saved")
    return {
        "num_seeds": len(comparisons),
        "num_prompts": [comparison.num_prompts for comparison in comparisons],
        "spearman": json_estimate([comparison.spearman for comparison in comparisons]),
        "budgets": {
            str(budget): {
                name: {
                    quantity: json_estimate([getattr(c.results[budget][name], quantity) for c in comparisons])
                    for quantity in quantities
                }
                for name in ALLOCATORS
            }
            for budget in comparisons[0].results
        },
    }


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The summary as rows of text, for ``SUMMARY_COLUMNS``; intervals where there is more than one seed."""

    def cell(estimate: Mapping[str, float | None], scale: float, sign: str) -> str:
        mean, low, high = (
            "" if value is None else f"{scale * value:{sign}.1f}"
            for value in (estimate["mean"], estimate["low"], estimate["high"])
        )
        return f"{mean or '-'} [{low}, {high}]" if low and high else mean or "-"

    return [
        (
            budget,
            name,
            cell(found["pass_rate"], 100, ""),
            cell(found["points_gained"], 1, "+"),
            cell(found["samples_saved"], 100, "+"),
        )
        for budget, allocators in summary["budgets"].items()
        for name, found in allocators.items()
    ]
