"""What one more useful group of a kind teaches, from the predictor's own drift (absolute learning progress, Matiisen et
al., arXiv 1707.00183).

A useful group is not the aim: what it teaches differs between kinds by more than selectors differ in finding it. Of
every kind c two averages of its mean predicted success rate are kept, a fast one and a slow one, which lies some
fifteen steps behind; and the useful groups trained there in that time. What one of them taught the whole pool is

    yield(c) = share(c) * (|fast(c) - slow(c)| + noise) / (groups(c) + 1)        share(c): of the pool

Falling counts like rising: a kind that is forgotten needs its groups as much as one that learns. ``noise`` stands for
what a change of that size may be without any learning; it lets kinds without groups of their own be tried.
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import FloatArray, IntArray, State

__all__ = ["LearningProgress"]

_FAST, _SLOW = 0.2, 0.05
_LAG = 1 / _SLOW - 1 / _FAST  # steps between the two averages
_NOISE = 0.01
_WARM_UP = 8  # steps in which predictions move because the predictor learns, not the policy
_BOUNDS = (1 / 4, 4.0)


class LearningProgress:
    """``shares`` [C] of the pool. Yields are relative: their mean over the pool's prompts is 1."""

    def __init__(self, shares: FloatArray) -> None:
        self._shares = shares
        self._fast = np.full(len(shares), np.nan)
        self._slow = np.full(len(shares), np.nan)
        self._groups = np.zeros(len(shares))
        self._num_steps = 0

    def observe(self, rates: FloatArray, useful_kinds: IntArray) -> None:
        """One step: mean predicted success rates [C] after it, and the kind of each of its useful groups [K]."""
        self._num_steps += 1
        if self._num_steps <= _WARM_UP:
            self._fast, self._slow = rates.copy(), rates.copy()
        self._fast += _FAST * (rates - self._fast)
        self._slow += _SLOW * (rates - self._slow)
        counts = np.bincount(useful_kinds, minlength=len(self._shares))
        self._groups += _SLOW * (counts - self._groups)

    def yields(self) -> FloatArray:
        """[C] within [1/4, 4]; 1 for every kind until there is something to say."""
        if self._num_steps <= _WARM_UP:
            return np.ones(len(self._shares))
        change = np.abs(self._fast - self._slow) + _NOISE
        taught = self._shares * change / (_LAG * self._groups + 1.0)
        relative: FloatArray = taught / float(self._shares @ taught)
        return np.clip(relative, *_BOUNDS)

    def metrics(self) -> dict[str, float]:
        """Least and largest yield, and the largest fall and rise of a kind over some fifteen steps."""
        change = self._fast - self._slow if self._num_steps else np.zeros(len(self._shares))
        yields = self.yields()
        return {
            "least_yield": float(yields.min()),
            "largest_yield": float(yields.max()),
            "largest_fall": float(max(-change.min(), 0.0)),
            "largest_rise": float(max(change.max(), 0.0)),
        }

    def state(self) -> State:
        return {
            "fast": self._fast.copy(),
            "slow": self._slow.copy(),
            "groups": self._groups.copy(),
            "num_steps": np.array(self._num_steps),
        }

    def load_state(self, state: State) -> None:
        self._fast, self._slow = state["fast"].astype(np.float64), state["slow"].astype(np.float64)
        self._groups = state["groups"].astype(np.float64)
        self._num_steps = int(state["num_steps"])
