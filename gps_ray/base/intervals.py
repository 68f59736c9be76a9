"""A mean with its 95 % interval, over whatever the independent unit is (prompts, seeds).

``mean +- t * s / sqrt(N)``: s the standard deviation over the N units, t the Student quantile with N - 1 degrees of
freedom. Closed form: nothing is resampled, nothing is drawn.

Where all values lie at one end of their possible range, s = 0 would claim certainty. There the exact bound holds: for
values in [0, 1], P(all N are 0) <= (1 - mean)^N, so means above 1 - 0.025^(1/N) are ruled out (Clopper and Pearson).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # the quantile of scipy.stats.t, without the second that scipy.stats takes

from gps_ray.base.types import FloatArray

__all__ = ["Estimate", "finite_or_none", "json_estimate", "mean_estimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over ``num_units`` units (prompts, seeds) with its 95 % interval."""

    value: float
    low: float
    high: float
    num_units: int

    def as_json(self) -> dict[str, float | None]:
        """{mean, low, high}; None for an infinite bound."""
        return {"mean": self.value, "low": finite_or_none(self.low), "high": finite_or_none(self.high)}


def mean_estimate(values: FloatArray, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """Mean of values [N] with its Student-t interval, cut to ``bounds``. One value alone bounds nothing."""
    num = len(values)
    if num == 0:
        raise ValueError("expected at least one value to take the mean of, got none")
    mean = float(np.mean(values))
    if num == 1:
        return Estimate(value=mean, low=bounds[0], high=bounds[1], num_units=1)
    low, high = bounds
    if np.isfinite(high - low) and (np.all(values == low) or np.all(values == high)):
        reach = (high - low) * (1.0 - 0.025 ** (1.0 / num))
        ends = (low, low + reach) if mean == low else (high - reach, high)
        return Estimate(value=mean, low=ends[0], high=ends[1], num_units=num)
    half = float(stdtrit(num - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(num))
    return Estimate(value=mean, low=max(mean - half, low), high=min(mean + half, high), num_units=num)


def finite_or_none(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return None if value is None or not np.isfinite(value) else float(value)


def json_estimate(values: Sequence[float | None]) -> dict[str, float | None]:
    """{mean, low, high} of those values that are numbers, ready for JSON; None where there is none, or the bounds are
    infinite because one value bounds nothing."""
    known = [value for value in values if finite_or_none(value) is not None]
    if not known:
        return {"mean": None, "low": None, "high": None}
    return mean_estimate(np.array(known, dtype=np.float64)).as_json()
