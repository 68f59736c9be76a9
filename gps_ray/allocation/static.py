"""Allocation on recorded success rates: learn from some prompts, allocate over others (``jobs.allocate --static``).

Per seed: a share of the prompts is held out by a keyed hash of their text; of the others some labels train the
predictor and a part kept from it fits the bins. Every allocator then spends the same total on the same held-out
prompts, and ``simulation.measure`` says what that would have solved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gps_ray.allocation.bins import fit_bins
from gps_ray.allocation.gains import expected_gains, rate_gains
from gps_ray.allocation.greedy import equal_order, sample_order
from gps_ray.allocation.recorded import RecordedOutcomes
from gps_ray.allocation.simulation import AllocationResult, measure, pass_table
from gps_ray.config import SelectionConfig
from gps_ray.errors import ConfigError, DataError
from gps_ray.intervals import Estimate, mean_estimate
from gps_ray.keyed_random import generator, seed_64
from gps_ray.predictor.interface import OutcomeBatch, Predictor, PromptTable, SuccessRateDistribution
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.selection.registry import build_predictor, resolve_selection
from gps_ray.types import FloatArray, IntArray

__all__ = ["ALLOCATORS", "SeedResult", "StaticSettings", "run_static", "summarise", "summary_rows"]

# What an allocator knows of a prompt: nothing; the length of its text; the predicted success rate, binned; the whole
# predictive distribution; its mean alone; the recorded success rate itself.
ALLOCATORS = ("equal", "length_bins", "predicted_bins", "expected_gain", "plug_in", "oracle")

_LABELS_PER_STEP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSettings:
    """``budgets``: mean samples per prompt; ``num_labels``: prompts to learn from (None: all that are not held out),
    of which ``share_for_bins`` fit the bins."""

    budgets: tuple[int, ...] = (2, 4, 8)
    minimum: int = 0
    maximum: int = 64
    num_labels: int | None = None
    num_bins: int = 8
    held_out_share: float = 0.2
    share_for_bins: float = 0.25

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not self.minimum <= budget <= self.maximum:
                raise ConfigError(
                    f"--budgets: expected mean samples per prompt between --minimum {self.minimum} and --maximum "
                    f"{self.maximum}, got {budget}; change one of the three"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """One seed: the predictor's rank correlation on held-out prompts, and results by budget and allocator."""

    spearman: float
    num_held_out: int
    results: Mapping[int, Mapping[str, AllocationResult]]


@dataclass(frozen=True, slots=True)
class _Split:
    train: IntArray
    bins: IntArray
    held_out: IntArray


def run_static(
    recorded: RecordedOutcomes, selection: SelectionConfig, settings: StaticSettings, seed: int, group_size: int = 8
) -> SeedResult:
    """Learn with the predictor of ``selection``, allocate with every allocator, measure."""
    split = _split(recorded, settings, seed)
    predictor = _learn(recorded, split.train, selection, seed, group_size)
    scores_bins = np.asarray(predictor.predict(split.bins, _steps(split.train)).mean(), dtype=np.float64)
    belief = predictor.predict(split.held_out, _steps(split.train))
    gains = _gains(recorded, split, scores_bins, belief, settings, seed)
    right, tried = recorded.num_right[split.held_out], recorded.num_tried[split.held_out]
    table = pass_table(right, tried, settings.maximum)
    results = {
        budget: _compare(gains, table, budget * len(split.held_out), settings.minimum) for budget in settings.budgets
    }
    return SeedResult(
        spearman=float(spearmanr(belief.mean(), right / tried).statistic),
        num_held_out=len(split.held_out),
        results=results,
    )


def _split(recorded: RecordedOutcomes, settings: StaticSettings, seed: int) -> _Split:
    buckets = np.array([seed_64(seed, "allocation/held_out", prompt=prompt) for prompt in recorded.prompts])
    held_out = buckets < settings.held_out_share * 2**63
    known = generator(seed, "allocation/labels").permutation(np.flatnonzero(~held_out))[: settings.num_labels]
    num_bins = round(settings.share_for_bins * len(known))
    split = _Split(train=known[num_bins:], bins=known[:num_bins], held_out=np.flatnonzero(held_out))
    if min(len(split.train), len(split.bins), len(split.held_out)) < settings.num_bins:
        raise DataError(
            f"outcomes: {len(recorded.prompts)} prompts leave {len(split.train)} to learn from, {len(split.bins)} to "
            f"fit {settings.num_bins} bins and {len(split.held_out)} to allocate over; record more prompts"
        )
    return split


def _steps(rows: IntArray) -> int:
    return -(-len(rows) // _LABELS_PER_STEP)


def _learn(
    recorded: RecordedOutcomes, rows: IntArray, selection: SelectionConfig, seed: int, group_size: int
) -> Predictor:
    table = PromptTable(
        prompt_ids=recorded.prompts,
        texts=recorded.prompts,
        embeddings=embed_texts(recorded.prompts, selection.features),
        num_pool=len(recorded.prompts),
    )
    predictor = build_predictor(resolve_selection(selection), table, group_size, seed)
    for step, part in enumerate(np.array_split(rows, _steps(rows))):
        predictor.observe(
            OutcomeBatch(
                step=step,
                rows=part,
                num_right=recorded.num_right[part].astype(np.int32),
                num_tried=recorded.num_tried[part].astype(np.int32),
                mean_response_length=np.full(len(part), np.nan, dtype=np.float32),
            )
        )
    return predictor


def _gains(
    recorded: RecordedOutcomes,
    split: _Split,
    scores_bins: FloatArray,
    belief: SuccessRateDistribution,
    settings: StaticSettings,
    seed: int,
) -> dict[str, FloatArray]:
    right, tried, maximum = recorded.num_right, recorded.num_tried, settings.maximum
    lengths = np.array([len(prompt) for prompt in recorded.prompts], dtype=np.float64)

    def binned(scores: FloatArray, at: FloatArray) -> FloatArray:
        return fit_bins(scores, right[split.bins], tried[split.bins], settings.num_bins).gains(at, maximum)

    mean = np.asarray(belief.mean(), dtype=np.float64)
    return {
        "length_bins": binned(lengths[split.bins], lengths[split.held_out]),
        "predicted_bins": binned(scores_bins, mean),
        "expected_gain": expected_gains(belief, maximum, generator(seed, "allocation/gains")),
        "plug_in": rate_gains(mean, maximum),
        "oracle": rate_gains(right[split.held_out] / tried[split.held_out], maximum),
    }


def _compare(
    gains: Mapping[str, FloatArray], table: FloatArray, total: int, minimum: int
) -> dict[str, AllocationResult]:
    equal = equal_order(len(table), total)
    orders = {"equal": equal} | {name: sample_order(gain, total, minimum) for name, gain in gains.items()}
    return {name: measure(orders[name], equal, table) for name in ALLOCATORS}


def summarise(seeds: Sequence[SeedResult]) -> dict[str, Any]:
    """Means over seeds with 95 % intervals, ready for JSON: spearman, num_held_out, budgets/allocator/quantity."""

    def estimate(values: Sequence[float]) -> dict[str, float]:
        found: Estimate = mean_estimate(np.array(values, dtype=np.float64))
        return {"mean": found.value, "low": found.low, "high": found.high}

    quantities = ("pass_rate", "points_gained", "samples_saved")
    return {
        "num_seeds": len(seeds),
        "num_held_out": [seed.num_held_out for seed in seeds],
        "spearman": estimate([seed.spearman for seed in seeds]),
        "budgets": {
            str(budget): {
                name: {
                    quantity: estimate([getattr(seed.results[budget][name], quantity) for seed in seeds])
                    for quantity in quantities
                }
                for name in ALLOCATORS
            }
            for budget in seeds[0].results
        },
    }


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The summary as rows of text: budget, allocator, pass rate, points gained, samples saved (with intervals)."""

    def cell(estimate: Mapping[str, float], scale: float, sign: str) -> str:
        mean, low, high = (scale * estimate[key] for key in ("mean", "low", "high"))
        return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"

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
