"""One number of several runs that differ in their seed alone: the seed is the unit of every interval of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gps_ray.base.intervals import Estimate, finite_or_none, mean_estimate

__all__ = ["OverSeeds", "estimate_as_json", "estimate_text", "mean_text", "over_seeds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """``by_seed`` holds a value per seed, None where that run has none; ``estimate`` is over those that have one, None
    where none has."""

    by_seed: tuple[float | None, ...]
    estimate: Estimate | None

    def as_json(self) -> dict[str, Any]:
        """{mean, low, high, by_seed}; None where there is no such number, or one seed bounds nothing."""
        return {**estimate_as_json(self.estimate), "by_seed": list(self.by_seed)}


def over_seeds(values: Sequence[float | None]) -> OverSeeds:
    """A value per seed; None, NaN and infinity are no values."""
    by_seed = tuple(finite_or_none(value) for value in values)
    known = [value for value in by_seed if value is not None]
    return OverSeeds(by_seed=by_seed, estimate=mean_estimate(np.array(known)) if known else None)


def estimate_as_json(estimate: Estimate | None) -> dict[str, float | None]:
    """{mean, low, high}, all None where there is no estimate."""
    return {"mean": None, "low": None, "high": None} if estimate is None else estimate.as_json()


def mean_text(estimate: Estimate | None, write: Callable[[float], str]) -> str:
    """The mean as ``write`` puts it, "-" where there is none."""
    return "-" if estimate is None else write(estimate.value)


def estimate_text(estimate: Estimate | None, write: Callable[[float], str]) -> str:
    """``30.0 [29.3, 30.6]``; the mean alone where one seed bounds nothing; "-" where there is none."""
    if estimate is None:
        return "-"
    bounds = f" [{write(estimate.low)}, {write(estimate.high)}]" if np.isfinite(estimate.high - estimate.low) else ""
    return write(estimate.value) + bounds
