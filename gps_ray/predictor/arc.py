"""ARCUS's belief: each prompt's success rate on the arc, psi = arcsin sqrt(g), by a Kalman filter (arXiv 2609.38018).

On the arc a rate's binomial noise is nearly the same everywhere, 1 / (4 n), so that no belief near 0 or 1 becomes surer
than its outcomes are. With k of n right and 0 < k < n, arcsin sqrt(k / n) is observed with that noise. A group that is
all wrong or all right says only on which side psi lies: there the belief is matched to the first two moments under the
likelihood itself, cos(psi)^(2n) or sin(psi)^(2n). Per step every psi drifts upwards (training helps) and its variance
grows. The paper's code could not be had: the sizes of prior and drift are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import BoolArray, FloatArray, IntArray, State
from gps_ray.base.useful import is_useful, useful_probability
from gps_ray.config import ArcusConfig
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable

__all__ = ["ArcPosterior", "ArcPredictor"]

_END = np.pi / 2
_NODES = np.linspace(-5.0, 5.0, 61)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()
_ROWS_AT_ONCE = 32_768


@dataclass(frozen=True, slots=True)
class ArcPosterior:
    """psi ~ N(location, arc_variance), both [N], independent; g = sin(psi)^2 with psi cut off at 0 and pi / 2
    (``Posterior``)."""

    location: FloatArray
    arc_variance: FloatArray

    def _rates(self, part: slice) -> FloatArray:
        return _rate(self.location[part, None] + np.sqrt(self.arc_variance[part, None]) * _NODES)

    def _expectation(self, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
        result = np.empty(len(self.location))
        for start in range(0, len(self.location), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            # No matrix product: its rounding depends on the row, and prompts of one belief must stay ties.
            result[part] = (function(self._rates(part)) * _WEIGHTS).sum(axis=1)
        return result

    def mean(self) -> FloatArray:
        return self._expectation(lambda rate: rate)

    def variance(self) -> FloatArray:
        return np.maximum(self._expectation(np.square) - self.mean() ** 2, 0.0)

    def sample(self, num_draws: int, rng: np.random.Generator) -> FloatArray:
        noise = rng.standard_normal((num_draws, len(self.location)))
        return _rate(self.location + np.sqrt(self.arc_variance) * noise)

    def expected_useful(self, group_sizes: Sequence[int], rng: np.random.Generator | None = None) -> FloatArray:
        """E[1 - g^G - (1 - g)^G] [K, N]."""

        def useful(size: int) -> FloatArray:
            return self._expectation(lambda rate: useful_probability(rate, size))

        return np.array([useful(size) for size in group_sizes])

    def expected_gains(self, max_samples: int, rng: np.random.Generator | None = None) -> FloatArray:
        """E[g (1 - g)^(j-1)] [N, J]: what the j-th sample of a prompt adds."""

        def gain(number: int) -> FloatArray:
            return self._expectation(lambda rate: rate * (1.0 - rate) ** number)

        return np.column_stack([gain(number) for number in range(max_samples)])


def _rate(psi: FloatArray) -> FloatArray:
    rate: FloatArray = np.sin(np.clip(psi, 0.0, _END)) ** 2
    return rate


class ArcPredictor:
    """Knows nothing of a prompt but its own outcomes: location, variance [N] of psi."""

    def __init__(self, table: PromptTable, config: ArcusConfig) -> None:
        num_rows = len(table.prompt_ids)
        self._config = config
        self._location = np.full(num_rows, np.pi / 4)
        self._variance = np.full(num_rows, config.prior_variance)
        self._seen = np.zeros(num_rows, dtype=np.bool_)

    def informed(self) -> bool:
        return False

    def predict(self, rows: IntArray, step: int) -> Posterior:
        return ArcPosterior(self._location[rows], self._variance[rows])

    def observe(self, batch: OutcomeBatch) -> None:
        tried = batch.num_tried > 0
        # Several groups of one prompt count as one larger group.
        rows, group = np.unique(batch.rows[tried], return_inverse=True)
        num_right = np.bincount(group, weights=batch.num_right[tried], minlength=len(rows))
        num_tried = np.bincount(group, weights=batch.num_tried[tried], minlength=len(rows))
        mixed = is_useful(num_right, num_tried)
        self._learn_mixed(rows[mixed], num_right[mixed], num_tried[mixed])
        self._learn_boundary(rows[~mixed], num_right[~mixed] > 0, num_tried[~mixed])
        self._seen[rows] = True
        self._location = np.minimum(self._location + self._config.upward_drift, _END)
        self._variance = np.minimum(self._variance + self._config.drift_variance, self._config.prior_variance)

    def _learn_mixed(self, rows: IntArray, num_right: IntArray, num_tried: IntArray) -> None:
        gain = self._variance[rows] / (self._variance[rows] + 1.0 / (4.0 * num_tried))
        self._location[rows] += gain * (np.arcsin(np.sqrt(num_right / num_tried)) - self._location[rows])
        self._variance[rows] *= 1.0 - gain

    def _learn_boundary(self, rows: IntArray, right: BoolArray, num_tried: IntArray) -> None:
        psi = self._location[rows, None] + np.sqrt(self._variance[rows, None]) * _NODES
        inside = np.clip(psi, 0.0, _END)
        side = np.where(right[:, None], np.sin(inside), np.cos(inside))
        weight = _WEIGHTS * side ** (2.0 * num_tried[:, None])
        weight /= weight.sum(axis=1, keepdims=True)
        location = (weight * psi).sum(axis=1)
        self._variance[rows] = (weight * (psi - location[:, None]) ** 2).sum(axis=1)
        # Beyond an end there is no rate: a belief that waits out there would be slow to come back.
        self._location[rows] = np.clip(location, 0.0, _END)

    def seen(self, rows: IntArray) -> BoolArray:
        seen: BoolArray = self._seen[rows]
        return seen

    def metrics(self) -> dict[str, float]:
        """``arc_std``: root of the mean variance of psi (radians), over the prompts seen."""
        variance = self._variance[self._seen]
        return {"arc_std": float(np.sqrt(variance.mean())) if len(variance) else 0.0}

    def state(self) -> State:
        return {"location": self._location.copy(), "variance": self._variance.copy(), "seen": self._seen.copy()}

    def load_state(self, state: State) -> None:
        if state["location"].shape != self._location.shape:
            raise CheckpointError(
                f"selector state: expected beliefs of {len(self._location)} prompts, got {len(state['location'])}; "
                "resume with the data the run was started with (data.*)"
            )
        self._location = state["location"].astype(np.float64)
        self._variance = state["variance"].astype(np.float64)
        self._seen = state["seen"].astype(np.bool_)
