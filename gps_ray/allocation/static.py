"""Allocation on recorded success rates: learn from some prompts, allocate over others (``jobs.allocate --static``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.allocation.comparison import AllocationSettings, Comparison, compare_allocators
from gps_ray.base.errors import DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import IntArray
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.prompt_features import embed_texts
from gps_ray.predictor.prompt_states import stored_states
from gps_ray.predictor.recorded import RecordedOutcomes, held_out, teach
from gps_ray.selection.registry import build_predictor, resolve_selection

__all__ = ["StaticSplit", "run_static", "split_recorded"]

SHARE_FOR_BINS = 0.25


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
    table = PromptTable(
        prompt_ids=recorded.prompts,
        texts=recorded.prompts,
        embeddings=embed_texts(recorded.prompts, selection.features),
        num_pool=len(recorded.prompts),
        states=stored_states(selection.features, recorded.prompts),
    )
    predictor = build_predictor(resolve_selection(selection), table, group_size, seed)
    next_step = teach(predictor, recorded, split.train)
    return compare_allocators(
        fitted_on=recorded.take(split.bins),
        fitted_mean=np.asarray(predictor.predict(split.bins, next_step).mean(), dtype=np.float64),
        spent_on=recorded.take(split.held_out),
        posterior=predictor.predict(split.held_out, next_step),
        settings=settings,
        seed=seed,
    )


def split_recorded(recorded: RecordedOutcomes, seed: int, num_labels: int | None = None) -> StaticSplit:
    """A fifth is held out, by a hash of (seed, text); of ``num_labels`` others (None: all) a quarter is for bins."""
    apart = held_out(recorded.prompts, "allocation/held_out", seed)
    known = generator(seed, "allocation/labels").permutation(np.flatnonzero(~apart))[:num_labels]
    num_bins = round(SHARE_FOR_BINS * len(known))
    if not num_bins or not apart.any():
        raise DataError(f"outcomes: {len(recorded.prompts)} prompts are too few to split; record more prompts")
    return StaticSplit(train=known[num_bins:], bins=known[:num_bins], held_out=np.flatnonzero(apart))
