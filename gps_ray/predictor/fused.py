"""gps_fused's predictor: what a prompt's text says, its own record and the policy's drift, joined in one posterior.

    f_i(t) = level + slope . [log length, text prior] + phi_i . w + shared drift + u_i(t),    g_i = sigmoid(f_i)

phi: text features (``fused_features``); w, level and slopes: weights shared by all prompts; u_i: the prompt's own
effect; all Gaussian, updated in closed form (``shared_filter``). Beside it, from the same features, how long responses
will be (``length_model``). The answer to two weaknesses of a predictor that sees
only embeddings and the newest batch: a prompt's own outcomes count as soon as there are any, and the posterior
is a distribution that widens where nothing is known.

The difficulty context z of GPS (arXiv 2602.01970, eq. for p(H_t | z_t)) is here the shared state (w, d): how hard the
pool is at present. ``metrics`` reports its swap test.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.states import below, nested
from gps_ray.base.types import BoolArray, FloatArray, IntArray, State
from gps_ray.base.useful import is_useful
from gps_ray.config import FusedConfig
from gps_ray.predictor.fused_features import TextFeatures, build_text_features
from gps_ray.predictor.interface import OutcomeBatch, Posterior, PromptTable
from gps_ray.predictor.kinds import kinds_of
from gps_ray.predictor.learning_progress import LearningProgress
from gps_ray.predictor.length_model import LengthModel, LengthPosterior
from gps_ray.predictor.logit_normal import expectation
from gps_ray.predictor.shared_filter import SharedFilter
from gps_ray.predictor.text_prior import load_text_prior

__all__ = ["FusedPredictor", "build_filter"]

_NUM_SWAP_PROMPTS = 256
_MAX_SWAP_BATCH = 32
_NUM_CHECKED_ROWS = 8
_NUM_FOLLOWED = 1024


def build_filter(
    features: TextFeatures, prior_logits: FloatArray | None, num_pool: int, config: FusedConfig
) -> SharedFilter:
    """Columns are level, log length, [text prior], text features; prior_logits [N] as the offline model predicts them.

    The text prior enters centred over the pool, with a slope around 1; its mean is the level's prior mean.
    """
    ones = np.ones(len(features.columns), dtype=np.float32)
    named = [ones, features.log_length]
    mean, variance = [0.0, 0.0], [config.level_variance, config.length_slope_variance]
    text_share = 1.0
    if prior_logits is not None:
        centre = float(np.mean(prior_logits[:num_pool]))
        named.append(prior_logits - centre)
        mean = [centre, 0.0, 1.0]
        variance.append(config.prior_slope_variance)
        text_share = config.text_share_with_prior
    num_text = features.columns.shape[1]
    drift = [config.level_drift, *[config.slope_drift] * (len(mean) - 1)]
    return SharedFilter(
        columns=np.column_stack([*named, np.sqrt(text_share) * features.columns]).astype(np.float32),
        prior_mean=np.concatenate([mean, np.zeros(num_text)]),
        prior_variance=np.concatenate([variance, np.ones(num_text)]),
        drift=np.concatenate([drift, np.full(min(config.num_drifting, num_text), config.text_drift)]),
        own_variance=config.prompt_variance + text_share * features.residual_variance,
        own_drift=config.prompt_drift,
        keeps_record=config.own_record,
    )


class FusedPredictor:
    """``predict`` gives a logit-normal posterior per prompt, with joint draws and closed expectations."""

    def __init__(
        self,
        table: PromptTable,
        config: FusedConfig,
        prior_logits: FloatArray | None = None,
        follows_learning: bool = False,
    ) -> None:
        """``prior_logits`` [N]: what other outcomes say of these texts; None takes them from ``config.text_prior``
        where that is set. ``follows_learning``: posteriors also say what a useful group of each prompt teaches. Raises
        DataError where the prior cannot be read."""
        if prior_logits is None and config.text_prior is not None:
            prior_logits = load_text_prior(config.text_prior).logits(table.texts, table.embeddings, table.states)
        self._has_prior = prior_logits is not None
        features = build_text_features(table, config)
        self._filter = build_filter(features, prior_logits, table.num_pool, config)
        self._lengths = LengthModel(
            self._filter,
            features.residual_variance,
            num_named=2 + self._has_prior,
            num_drifting=config.num_drifting,
            text_share=config.text_share_with_prior if self._has_prior else 1.0,
        )
        # Of these few numbers the state keeps a copy: weights mean nothing beside other features.
        self._fingerprint = features.columns[:_NUM_CHECKED_ROWS].astype(np.float64)
        self._seen = np.zeros(len(table.texts), dtype=np.bool_)
        num_swap = min(_NUM_SWAP_PROMPTS, table.num_pool)
        swap_rng = generator(0, "fused/swap_test")
        self._swap_rows = np.sort(swap_rng.choice(table.num_pool, size=num_swap, replace=False))
        self._followed = _Followed(table, features.columns, config.num_kinds) if follows_learning else None
        self._metrics: dict[str, float] = {}

    def informed(self) -> bool:
        """With a text prior even the first batch can be chosen."""
        return self._has_prior

    def predict(self, rows: IntArray, step: int) -> Posterior:
        posterior = self._filter.predict(rows)
        if self._followed is None:
            return posterior
        return replace(posterior, yields=self._followed.yields(rows))

    def predict_from_text(self, rows: IntArray, step: int) -> Posterior:
        """Shared weights and drift alone, without the prompts' own effects."""
        return self._filter.predict_unseen(rows)

    def expected_lengths(self, rows: IntArray) -> FloatArray:
        """[N] float64 tokens per response, of seen and unseen prompts; [0] before the first outcome."""
        return self._lengths.expected(rows)

    def predict_lengths(self, rows: IntArray) -> LengthPosterior:
        """The posterior [N] of log response lengths."""
        return self._lengths.predict(rows)

    def observe(self, batch: OutcomeBatch) -> None:
        tried = batch.num_tried > 0
        # Several groups of one prompt count as one larger group.
        rows, group = np.unique(batch.rows[tried], return_inverse=True)
        num_right = np.bincount(group, weights=batch.num_right[tried], minlength=len(rows))
        num_tried = np.bincount(group, weights=batch.num_tried[tried], minlength=len(rows))
        if len(rows):
            self._metrics = {
                "log_likelihood": float(self._filter.predict(rows).log_likelihood(num_right, num_tried).mean()),
                **self._swap_test(rows, num_tried),
            }
            self._filter.observe(rows, num_right, num_tried)
            self._seen[rows] = True
            self._metrics |= self._shared_metrics()
        self._filter.advance()
        if self._followed is not None:
            useful = rows[is_useful(num_right, num_tried)]
            self._followed.observe(self._filter.predict(self._followed.rows).mean(), useful)
            self._metrics |= self._followed.progress.metrics()
        length_error = self._lengths.observe(batch)
        if length_error is not None:
            self._metrics["length_error"] = length_error

    def _swap_test(self, rows: IntArray, num_tried: IntArray) -> dict[str, float]:
        """Does the shared context carry anything? The newest batch is taken as all solved and as all failed; reported
        is the change of the prediction on prompts of the pool outside the batch: mean |change| and mean change (both 0
        where the context is ignored; a positive mean change is the sensible sign)."""
        rows, num_tried = rows[:_MAX_SWAP_BATCH], num_tried[:_MAX_SWAP_BATCH]
        others = np.setdiff1d(self._swap_rows, rows, assume_unique=True)
        if not len(others):
            return {}
        posterior = self._filter.predict(others)
        rates = [
            expectation(
                posterior.location + self._filter.shift_under(rows, right, num_tried, others),
                posterior.logit_variance,
                lambda rate: rate,
            )
            for right in (num_tried, np.zeros_like(num_tried))
        ]
        change = rates[0] - rates[1]
        return {"swap_test": float(np.abs(change).mean()), "swap_test_signed": float(change.mean())}

    def _shared_metrics(self) -> dict[str, float]:
        weights = self._filter.leading_weights()
        named = {"level": weights[0], "length_slope": weights[1]}
        if self._has_prior:
            named["prior_slope"] = weights[2]
        own_share = 1.0 - self._filter.weight[self._seen].mean()
        return {**{name: float(value) for name, value in named.items()}, "own_record_share": float(own_share)}

    def seen(self, rows: IntArray) -> BoolArray:
        seen: BoolArray = self._seen[rows]
        return seen

    def metrics(self) -> dict[str, float]:
        """log_likelihood (nats per group, predicted before it was learnt), swap_test, swap_test_signed, level (logit),
        length_slope, prior_slope, own_record_share (1 - c_i, mean over the prompts seen); those of ``LearningProgress``
        where it is kept; length_error (root mean square of log(seen / predicted) of the groups' mean lengths, predicted
        before they were learnt)."""
        return dict(self._metrics)

    def state(self) -> State:
        metrics = nested("metric", {name: np.array(value) for name, value in self._metrics.items()})
        followed = {} if self._followed is None else nested("progress", self._followed.progress.state())
        return {
            **nested("filter", self._filter.state()),
            **nested("lengths", self._lengths.state()),
            **followed,
            **metrics,
            "seen": self._seen.copy(),
            "fingerprint": self._fingerprint.copy(),
        }

    def load_state(self, state: State) -> None:
        """Raises CheckpointError where the state belongs to other prompts, features or settings."""
        found = below("filter", state)
        for name, expected in self._filter.state().items():
            if name not in found or found[name].shape != expected.shape:
                raise CheckpointError(
                    f"predictor state: {name} should have shape {expected.shape}, got "
                    f"{found[name].shape if name in found else None}; resume with the run's own data.* and "
                    "selection.fused.*"
                )
        fingerprint = state["fingerprint"]
        if fingerprint.shape != self._fingerprint.shape or not np.allclose(fingerprint, self._fingerprint, atol=1e-4):
            raise CheckpointError(
                "predictor state: its text features are not those of this run; resume with the run's own data.*, "
                "selection.features.* and selection.fused.* on the machine type and library versions it started with"
            )
        self._filter.load_state(found)
        lengths = below("lengths", state)
        if lengths:  # a checkpoint from before lengths were predicted: that begins anew
            self._lengths.load_state(lengths)
        if self._followed is not None:
            self._followed.load(below("progress", state))
        self._seen = state["seen"].astype(np.bool_)
        self._metrics = {name: float(value) for name, value in below("metric", state).items()}


class _Followed:
    """``LearningProgress`` of the pool's kinds, whose mean rates are those of a fixed part of the pool."""

    def __init__(self, table: PromptTable, columns: FloatArray, num_kinds: int) -> None:
        self._kinds = kinds_of(columns, table.num_pool, num_kinds)
        num_rows = min(_NUM_FOLLOWED, table.num_pool)
        rng = generator(0, "fused/followed")
        self.rows = np.sort(rng.choice(table.num_pool, size=num_rows, replace=False))
        counts = np.bincount(self._kinds[: table.num_pool])
        self.progress = LearningProgress(counts / counts.sum())

    def observe(self, mean: FloatArray, useful: IntArray) -> None:
        """mean predicted rates of ``rows``; the rows of the step's useful groups."""
        num_kinds, kinds = int(self._kinds.max()) + 1, self._kinds[self.rows]
        counts = np.bincount(kinds, minlength=num_kinds)
        rates = np.bincount(kinds, weights=mean, minlength=num_kinds) / np.maximum(counts, 1)
        self.progress.observe(rates, self._kinds[useful])

    def yields(self, rows: IntArray) -> FloatArray:
        yields: FloatArray = self.progress.yields()[self._kinds[rows]]
        return yields

    def load(self, state: State) -> None:
        expected = self.progress.state()["fast"].shape
        if "fast" not in state or state["fast"].shape != expected:
            raise CheckpointError(
                "predictor state: it does not say what groups taught, or says it of other kinds; resume with the run's "
                "own selection.acquisition, selection.fused.num_kinds and data.*"
            )
        self.progress.load_state(state)
