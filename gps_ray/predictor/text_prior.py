"""An offline model of difficulty from text alone, learnt from any table of past outcomes, another model's included.

Ridge regression of smoothed logits, log((k + a) / (n - k + a)), on the features of ``TextEncoder``: the mean of a
Gaussian process with the sum of their kernels, at a cost linear in the number of prompts. a = 1/2 + n / 20, because
what one policy never solves in many tries another one may: logits stay within +-3. Each prompt weighs n / (n + 3/2),
because few tries say little.

The penalty is the one of a few that ranks a held-out fifth of the prompts best; on the same fifth, intercept and slope
are fitted, so that the predicted logit is calibrated for that policy. For another policy the slope is learnt online.

A fitted prior is a folder: ``text_prior.safetensors`` (numbers) and ``text_prior.json`` (what it was made from).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, lsqr

from gps_ray.base.errors import DataError
from gps_ray.base.types import BoolArray, FloatArray, IntArray
from gps_ray.predictor.calibration import rank_correlation
from gps_ray.predictor.recorded import held_out
from gps_ray.predictor.text_encoder import TextEncoder, read_texts

__all__ = ["PriorReport", "TextPrior", "fit_text_prior", "load_text_prior"]

_FORMAT = 2
_PENALTIES = (1.5, 3.0, 6.0, 12.0)
_MAX_ITERATIONS = 60
_MIN_PROMPTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorReport:
    """What a prior was made from, and how well it ranked the held-out fifth (Spearman with the observed rates)."""

    num_prompts: int
    num_rollouts: int
    penalty: float
    heldout_spearman: float
    embedding_dimension: int
    state_dimension: int = 0


@dataclass(frozen=True, slots=True)
class TextPrior:
    """``logits`` of any texts; ``weights`` [F] over all features, ``intercept`` and ``slope`` from calibration."""

    encoder: TextEncoder
    weights: FloatArray
    intercept: float
    slope: float
    report: PriorReport

    def logits(self, texts: Sequence[str], embeddings: FloatArray, states: FloatArray | None = None) -> FloatArray:
        """Predicted logits of the success rates [N]; embeddings [N, E] and states [N, F] as in the outcomes it was
        fitted on. A prior that was fitted without states does not look at any.

        Raises DataError for embeddings or states of another dimension.
        """
        if embeddings.shape[1] != self.report.embedding_dimension:
            raise DataError(
                f"text prior: fitted with embeddings of dimension {self.report.embedding_dimension}, got "
                f"{embeddings.shape[1]}; set selection.features as it was, or fit the prior anew"
            )
        needed, found = self.report.state_dimension, 0 if states is None else states.shape[1]
        if needed and found != needed:
            raise DataError(
                f"text prior: fitted with prompt states of dimension {needed}, got {found or 'none'}; set "
                "selection.features.prompt_states as it was, or fit the prior anew"
            )
        blocks = self.encoder.blocks(read_texts(texts, embeddings, states if needed else None))
        predicted: FloatArray = self.intercept + self.slope * _times(blocks, self.weights).astype(np.float64)
        return predicted

    def save(self, directory: Path) -> None:
        """Write the folder that ``load_text_prior`` reads."""
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(array) for name, array in self.encoder.state().items()}
        calibration = np.array([self.intercept, self.slope])
        save_file({**arrays, "weights": self.weights, "calibration": calibration}, _numbers(directory))
        _about(directory).write_text(json.dumps({"format": _FORMAT, **asdict(self.report)}, indent=1) + "\n")


def load_text_prior(directory: Path) -> TextPrior:
    """Raises DataError where the folder holds no whole prior of this format."""
    try:
        about = json.loads(_about(directory).read_text())
        state = load_file(_numbers(directory))
        if about.pop("format") != _FORMAT:
            raise DataError(f"{directory}: a text prior of another format; fit it anew (jobs.pretrain_predictor)")
        intercept, slope = state["calibration"]
        return TextPrior(
            TextEncoder.from_state(state), state["weights"], float(intercept), float(slope), PriorReport(**about)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise DataError(
            f"{directory}: expected a text prior written by jobs.pretrain_predictor ({type(error).__name__}: {error}); "
            "change selection.fused.text_prior"
        ) from error


def fit_text_prior(
    texts: Sequence[str],
    embeddings: FloatArray,
    num_right: IntArray,
    num_tried: IntArray,
    states: FloatArray | None = None,
) -> TextPrior:
    """Learn from texts [N] with embeddings [N, E], states [N, F] where there are any, and num_right of num_tried > 0
    [N].

    Deterministic. Raises DataError for too few prompts, or where all success rates are equal.
    """
    if len(texts) < _MIN_PROMPTS:
        raise DataError(f"text prior: expected at least {_MIN_PROMPTS} prompts to learn from, got {len(texts)}")
    rate = num_right / num_tried
    if np.ptp(rate) == 0:
        raise DataError(f"text prior: all {len(texts)} prompts have the success rate {rate[0]:g}: nothing to learn")
    added = 0.5 + num_tried / 20.0
    target = np.log((num_right + added) / (num_tried - num_right + added))
    importance = num_tried / (num_tried + 1.5)

    raw = read_texts(texts, embeddings, states)
    apart = held_out(texts, "text_prior/held_out")
    encoder = TextEncoder.fit(raw.take(~apart))
    blocks, checked = encoder.blocks(raw.take(~apart)), encoder.blocks(raw.take(apart))
    predictions = []
    for penalty in _PENALTIES:
        weights = _ridge(blocks, target[~apart], importance[~apart], penalty)
        predictions.append(_times(checked, weights))
    ranks = [rank_correlation(prediction, rate[apart]) for prediction in predictions]
    best = int(np.nanargmax(ranks)) if np.isfinite(ranks).any() else len(ranks) - 1
    slope, intercept = _calibrated(predictions[best], target[apart])

    encoder = TextEncoder.fit(raw)
    weights = _ridge(encoder.blocks(raw), target, importance, _PENALTIES[best])
    report = PriorReport(
        num_prompts=len(texts),
        num_rollouts=int(num_tried.sum()),
        penalty=_PENALTIES[best],
        heldout_spearman=float(ranks[best]),
        embedding_dimension=embeddings.shape[1],
        state_dimension=0 if states is None else states.shape[1],
    )
    return TextPrior(encoder, weights, intercept, slope, report)


def _ridge(blocks: Sequence[Any], target: FloatArray, importance: FloatArray, penalty: float) -> FloatArray:
    """argmin_w sum_i importance_i (target_i - centre - x_i . w)^2 + penalty |w|^2 [F] float32, by LSQR.

    centre: the weighed mean of the targets. Blocks [N, .] stand side by side and may be sparse.
    """
    centre = np.average(target, weights=importance)
    root = np.sqrt(importance)
    # Most buckets of the n-grams are empty: their weights are 0, and LSQR need not carry them.
    occupied = np.concatenate([_occupied(block) for block in blocks])
    cuts = np.cumsum([block.shape[1] for block in blocks])[:-1]
    blocks = [block[:, kept] for block, kept in zip(blocks, np.split(occupied, cuts), strict=True)]
    num_columns = sum(block.shape[1] for block in blocks)
    transposed = [block.T for block in blocks]

    def forward(weights: FloatArray) -> FloatArray:
        return root * _times(blocks, weights)

    def backward(values: FloatArray) -> FloatArray:
        scaled = (root * values).astype(np.float32)
        gradient: FloatArray = np.concatenate([block @ scaled for block in transposed]).astype(np.float64)
        return gradient

    system = LinearOperator((len(target), num_columns), matvec=forward, rmatvec=backward, dtype=np.float64)
    solution = lsqr(
        system, root * (target - centre), damp=np.sqrt(penalty), atol=1e-5, btol=1e-5, iter_lim=_MAX_ITERATIONS
    )
    weights = np.zeros(len(occupied), dtype=np.float32)
    weights[occupied] = solution[0]
    return weights


def _occupied(block: Any) -> BoolArray:
    """[columns]: has any row an entry there?"""
    occupied: BoolArray = (block.getnnz(axis=0) if issparse(block) else np.count_nonzero(block, axis=0)) > 0
    return occupied


def _times(blocks: Sequence[Any], weights: FloatArray) -> FloatArray:
    """The blocks side by side times weights [F]: [N] float32."""
    cuts = np.cumsum([block.shape[1] for block in blocks])[:-1]
    parts = np.split(weights.astype(np.float32), cuts)
    product: FloatArray = np.sum([block @ part for block, part in zip(blocks, parts, strict=True)], axis=0)
    return product


def _calibrated(prediction: FloatArray, target: FloatArray) -> tuple[float, float]:
    """Slope and intercept of the least-squares line target ~ prediction; the slope is at least 0."""
    variance = float(np.var(prediction))
    covariance = float(np.mean((prediction - prediction.mean()) * (target - target.mean())))
    slope = max(covariance / variance, 0.0) if variance > 0 else 0.0
    return slope, float(target.mean() - slope * prediction.mean())


def _numbers(directory: Path) -> Path:
    return directory / "text_prior.safetensors"


def _about(directory: Path) -> Path:
    return directory / "text_prior.json"
