"""Allocation on recorded success rates: learn from some prompts, allocate over others (``jobs.allocate --static``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.allocation.comparison import AllocationSettings, Comparison, compare_allocators
from gps_ray.allocation.recorded import RecordedOutcomes
from gps_ray.config import SelectionConfig
from gps_ray.errors import DataError
from gps_ray.keyed_random import generator, seed_64
from gps_ray.predictor.interface import OutcomeBatch, Predictor, PromptTable
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.selection.registry import build_predictor, resolve_selection
from gps_ray.types import IntArray

__all__ = ["StaticSplit", "run_static", "split_recorded"]

HELD_OUT_SHARE = 0.2
SHARE_FOR_BINS = 0.25

# The labels are shown to the predictor as so many groups per step, as a run would.
_LABELS_PER_STEP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSplit:
    """Rows, all different: to learn from, to fit bins on, to allocate over."""

    train: IntArray
    bins: IntArray
    held_out: IntArray


def run_static(
    recorded: RecordedOutcomes,
    selection: SelectionConfig,
    settings: AllocationSettings,
    seed: int,
    num_labels: int | None = None,
    group_size: int = 8,
) -> Comparison:
    """Learn with the predictor of ``selection`` from one part of the prompts, compare the allocators on another."""
    split = split_recorded(recorded, seed, num_labels)
    predictor = _learn(recorded, split.train, selection, seed, group_size)
    next_step = _num_steps(split.train)
    return compare_allocators(
        fitted_on=recorded.take(split.bins),
        fitted_mean=np.asarray(predictor.predict(split.bins, next_step).mean(), dtype=np.float64),
        spent_on=recorded.take(split.held_out),
        belief=predictor.predict(split.held_out, next_step),
        settings=settings,
        seed=seed,
    )


def split_recorded(recorded: RecordedOutcomes, seed: int, num_labels: int | None = None) -> StaticSplit:
    """A fifth is held out, by a hash of (seed, text); of ``num_labels`` others (None: all) a quarter is for bins."""
    hashes = np.array([seed_64(seed, "allocation/held_out", prompt=prompt) for prompt in recorded.prompts])
    held_out = hashes < HELD_OUT_SHARE * 2**63
    known = generator(seed, "allocation/labels").permutation(np.flatnonzero(~held_out))[:num_labels]
    num_bins = round(SHARE_FOR_BINS * len(known))
    if not num_bins or not held_out.any():
        raise DataError(f"outcomes: {len(recorded.prompts)} prompts are too few to split; record more prompts")
    return StaticSplit(train=known[num_bins:], bins=known[:num_bins], held_out=np.flatnonzero(held_out))


def _num_steps(rows: IntArray) -> int:
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
    for step, part in enumerate(np.array_split(rows, _num_steps(rows))):
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
