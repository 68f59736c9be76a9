"""How long will the responses to a prompt be? A Gaussian posterior of their log length, from the text and the record.

    log(1 + length_i(t)) = level + slopes . [log text length, text prior] + phi_i . w + shared drift + u_i(t)

The features and the filter of gps_fused (``fused_features``, ``shared_filter``), with weights of their own: what makes
a response long need not make it wrong. An observation is the log of a group's mean length, because the mean is what a
group costs. A response that was cut off at the limit counts as long as it got: what is asked for is what
a response will cost under the limit, not how long it would have become. So nothing is expected outside
the range of the groups that were seen.

One number scales all variances at once, prior, noise and drift alike, which leaves the mean as it is: how far off the
predictions were lately, in units of what was expected (the conjugate posterior of a common variance, which forgets). So
the posterior is about calibrated where lengths differ by a few tokens and where they differ tenfold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.states import below, nested
from gps_ray.base.types import FloatArray, IntArray, State
from gps_ray.predictor.interface import OutcomeBatch
from gps_ray.predictor.shared_filter import GaussianSites, SharedFilter

__all__ = ["LengthModel", "LengthPosterior"]

# Prior variances, in squared logs, and their growth per step; the scale makes their ratios matter alone. The level is
# 150 tokens within a factor of 20.
_LEVEL, _LEVEL_VARIANCE, _LEVEL_DRIFT = 5.0, 9.0, 2e-3
_SLOPE_VARIANCE, _SLOPE_DRIFT = 0.1, 5e-5
# Of what the text kernels make of success, in squared logits: how far lengths go with the text, and how fast that
# changes.
_TEXT_SHARE, _TEXT_DRIFT = 0.15, 3e-4
_OWN_VARIANCE, _OWN_DRIFT = 0.1, 5e-3
# Of one response around its group's expectation: a standard deviation of a factor of 1.9.
_RESPONSE_VARIANCE = 0.4

# The scale begins as if so many groups had been as far off as expected, and keeps this share of its evidence per step.
_SCALE_GROUPS, _SCALE_KEPT = 8.0, 0.9


@dataclass(frozen=True, slots=True)
class LengthPosterior:
    """mean, variance [N] of log(1 + mean response length) of a prompt's next group, without the chance of its draws."""

    mean: FloatArray
    variance: FloatArray

    def expected(self) -> FloatArray:
        """[N] float64 tokens."""
        lengths: FloatArray = np.expm1(self.mean + self.variance / 2)
        return lengths


class LengthModel:
    """``success``: the filter of success, whose columns serve here too, not copied; its first ``num_named`` ones are
    the level and slopes. ``text_share``: what was left of the text's variance in them. residual_variance [N]: what they
    leave out of a text."""

    def __init__(
        self,
        success: SharedFilter,
        residual_variance: FloatArray,
        *,
        num_named: int,
        num_drifting: int,
        text_share: float = 1.0,
    ) -> None:
        columns = success.columns
        num_text = columns.shape[1] - num_named
        text = _TEXT_SHARE / text_share if text_share > 0 else _TEXT_SHARE
        slopes = num_named - 1
        self._filter = SharedFilter(
            columns=columns,
            prior_mean=np.concatenate([[_LEVEL], np.zeros(columns.shape[1] - 1)]),
            prior_variance=np.concatenate([[_LEVEL_VARIANCE], [_SLOPE_VARIANCE] * slopes, np.full(num_text, text)]),
            drift=np.concatenate(
                [[_LEVEL_DRIFT], [_SLOPE_DRIFT] * slopes, np.full(min(num_drifting, num_text), _TEXT_DRIFT)]
            ),
            own_variance=_OWN_VARIANCE + _TEXT_SHARE * residual_variance,
            own_drift=_OWN_DRIFT,
        )
        self._error = np.zeros(2)  # squared error in units of its variance, and the groups it is of
        self._range = np.array([np.inf, -np.inf])  # mean lengths of all groups seen

    def observe(self, batch: OutcomeBatch) -> float | None:
        """Learn from the groups of one step whose lengths are known. Returns how far off they were predicted, as the
        root mean square of log(seen / predicted); None where there was nothing to compare."""
        known = np.isfinite(batch.mean_response_length)
        rows, group, num_groups = np.unique(batch.rows[known], return_inverse=True, return_counts=True)
        error = None
        self._error *= _SCALE_KEPT
        if len(rows):
            lengths = batch.mean_response_length[known].astype(np.float64)
            logs = np.bincount(group, weights=np.log1p(lengths)) / num_groups
            # A response without a verdict has a length too; a group is taken for one response at least.
            num_responses = np.maximum(np.bincount(group, weights=batch.num_tried[known]), num_groups)
            sites = GaussianSites(logs, _RESPONSE_VARIANCE / num_responses)
            predicted, squared = self._filter.observe_values(rows, sites)
            if self._knows():
                error = float(np.sqrt(np.mean((logs - predicted) ** 2)))
            self._error += (squared, len(rows))
            self._range = np.array([min(self._range[0], lengths.min()), max(self._range[1], lengths.max())])
        self._filter.advance()
        return error

    def predict(self, rows: IntArray) -> LengthPosterior:
        """The posterior of rows [N]."""
        posterior = self._filter.predict(rows)
        return LengthPosterior(posterior.location, self._scale() * posterior.logit_variance)

    def expected(self, rows: IntArray) -> FloatArray:
        """[N] float64 tokens per response for rows [N], within what was seen; [0] before the first outcome."""
        if not self._knows():
            return np.zeros(0)
        return np.clip(self.predict(rows).expected(), *self._range)

    def _knows(self) -> bool:
        return bool(self._range[0] <= self._range[1])

    def _scale(self) -> float:
        return float((_SCALE_GROUPS + self._error[0]) / (_SCALE_GROUPS + self._error[1]))

    def state(self) -> State:
        return {**nested("filter", self._filter.state()), "error": self._error.copy(), "range": self._range.copy()}

    def load_state(self, state: State) -> None:
        """Raises CheckpointError where the state belongs to other prompts or features."""
        found, expected = below("filter", state), self._filter.state()
        wrong = [name for name in expected if name not in found or found[name].shape != expected[name].shape]
        if wrong:
            raise CheckpointError(
                f"predictor state: what it knows of response lengths ({', '.join(wrong)}) belongs to other prompts or "
                "features; resume with the run's own data.*, selection.features.* and selection.fused.*"
            )
        self._filter.load_state(found)
        self._error, self._range = state["error"].copy(), state["range"].copy()
