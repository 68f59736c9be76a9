"""How long will the responses to a prompt be? A record of what was seen, where no predictor says more.

It orders the work that is dealt out, and prices prompts for the acquisition ``useful_per_token``. ``gps_fused`` has a
posterior of lengths in its place (``gps_ray.predictor.length_model``).
"""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import FloatArray, IntArray, State
from gps_ray.predictor.interface import OutcomeBatch, PredictsLengths

__all__ = ["KnownLengths", "ResponseLengths"]

# Of a record's weight, what is left at its next outcome: lengths move while a policy learns.
_KEPT = 0.5


class ResponseLengths:
    """Mean response length per prompt, newer groups counting more; that of all recent groups where a prompt has none.

    Its state is three numeric arrays: [N] float32 means and weights, [2] float64 of all prompts together.
    """

    def __init__(self, num_prompts: int) -> None:
        self._means = np.zeros(num_prompts, dtype=np.float32)
        self._weights = np.zeros(num_prompts, dtype=np.float32)
        self._all = np.zeros(2)  # sum and number of recent group means

    def observe(self, batch: OutcomeBatch) -> None:
        """Take in the groups of one step; those without any response say nothing."""
        known = np.isfinite(batch.mean_response_length)
        rows, lengths = batch.rows[known], batch.mean_response_length[known]
        weights = _KEPT * self._weights[rows]
        self._means[rows] = (weights * self._means[rows] + lengths) / (weights + 1)
        self._weights[rows] = weights + 1
        self._all = _KEPT * self._all + (lengths.sum(dtype=np.float64), len(lengths))

    def expected_lengths(self, rows: IntArray) -> FloatArray:
        """[K] float64 tokens per response for prompts rows [K]; [0] before the first outcome."""
        if self._all[1] == 0:
            return np.zeros(0)
        seen = self._weights[rows] > 0
        return np.where(seen, self._means[rows], self._all[0] / self._all[1]).astype(np.float64)

    def state(self) -> State:
        return {"means": self._means, "weights": self._weights, "all": self._all}

    def load_state(self, state: State) -> None:
        self._means, self._weights = state["means"].copy(), state["weights"].copy()
        self._all = state["all"].copy()


class KnownLengths:
    """What ``source`` predicts of response lengths; where it predicts none, a record that is kept here in its place."""

    def __init__(self, source: object, num_prompts: int) -> None:
        self._record: ResponseLengths | None = None
        if isinstance(source, PredictsLengths):
            self._lengths: PredictsLengths = source
        else:
            self._lengths = self._record = ResponseLengths(num_prompts)

    def observe(self, batch: OutcomeBatch) -> None:
        """``source`` observes by itself."""
        if self._record is not None:
            self._record.observe(batch)

    def expected_lengths(self, rows: IntArray) -> FloatArray:
        """[K] float64 tokens per response for prompts rows [K]; [0] before the first outcome."""
        return self._lengths.expected_lengths(rows)

    def state(self) -> State:
        """Of the record; {} without one."""
        return {} if self._record is None else self._record.state()

    def load_state(self, state: State) -> None:
        """{}, as of a checkpoint from before there was a record: that begins anew."""
        if self._record is not None and state:
            self._record.load_state(state)
