"""The finite feature map of gps_fused's shared model, and where it may be replaced.

The text part is a Gaussian process with a sum of kernels, each a variance times a correlation:

    k(x, x') = embedding RBF + hashed TF-IDF inner product + RBF of lengths and notation + RBF of the lengths alone
             + RBF of the states of a model's middle layers, where they were read

An RBF's squared bandwidth is the median squared distance. The leading D eigenfunctions over M landmark prompts
(Nystroem; Williams and Seeger, NIPS 2000) make columns phi with phi(x) . phi(x') ~ k(x, x'); what they leave of
k(x, x) goes to the prompt's own effect, as in FITC. So the cost is linear in the pool and nothing is learnt offline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.import_path import load_object
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray
from gps_ray.config import FusedConfig
from gps_ray.predictor.interface import PromptTable
from gps_ray.predictor.kernels import eigenfunctions, rbf_scale, squared_distances, standardised
from gps_ray.predictor.ngrams import WORDS, inverse_frequency, tfidf, with_columns
from gps_ray.predictor.text_statistics import LENGTHS, text_statistics

__all__ = ["FeatureMap", "TextFeatures", "build_text_features", "text_kernels"]

# A part of the pool at a time, of 48 MiB per kernel and 1,000 landmarks. Pools up to this size are one part: where a
# pool is cut shows in the last bits.
_ROWS_AT_ONCE = 6144
# 256 MiB for a thousand landmarks.
_MAX_DENSE_COLUMNS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFeatures:
    """columns [N, D] float32 in order of importance: a unit of prior variance on each weight gives the text part.

    residual_variance [N]: prior variance of the text part that the columns leave out. log_length [N]: standardised
    over the pool.
    """

    columns: FloatArray
    residual_variance: FloatArray
    log_length: FloatArray


# (prompt table, config) -> features of every row of the table. Must be a function of its arguments alone.
FeatureMap = Callable[[PromptTable, FusedConfig], TextFeatures]

# Rows [K] of the prompt table -> their kernel rows against the landmarks [K, M], and the diagonal [K].
_Kernel = Callable[[IntArray], tuple[FloatArray, FloatArray]]


def build_text_features(table: PromptTable, config: FusedConfig) -> TextFeatures:
    """By the map that ``config.feature_map`` names. Raises ConfigError where it returns another number of rows."""
    feature_map: FeatureMap = text_kernels
    if config.feature_map != "text_kernels":
        feature_map = load_object(config.feature_map, "selection.fused.feature_map")
    features = feature_map(table, config)
    if len(features.columns) != len(table.texts):
        raise ConfigError(
            f"selection.fused.feature_map: {config.feature_map} should return {len(table.texts)} rows, got "
            f"{len(features.columns)}; change selection.fused.feature_map"
        )
    return features


def text_kernels(table: PromptTable, config: FusedConfig) -> TextFeatures:
    """The built-in feature map. Landmarks are a fixed random part of the pool, the same in every run on it."""
    num_landmarks = min(config.num_landmarks, table.num_pool)
    landmarks = np.sort(generator(0, "fused/landmarks").choice(table.num_pool, size=num_landmarks, replace=False))
    statistics = text_statistics(table.texts)
    kernels = list(_kernels(table, statistics, landmarks, config))
    columns, residual = _nystroem(kernels, landmarks, len(table.texts), config.num_features)
    log_length = standardised(statistics[:, :1], landmarks)[:, 0]
    return TextFeatures(columns=columns, residual_variance=residual, log_length=log_length)


def _kernels(
    table: PromptTable, statistics: FloatArray, landmarks: IntArray, config: FusedConfig
) -> Iterator[tuple[float, _Kernel]]:
    """(variance, kernel) for every kernel that is switched on."""
    if config.embedding_variance > 0:
        yield config.embedding_variance, _rbf(table.embeddings, landmarks)
    if config.words_variance > 0:
        yield config.words_variance, _words(table, landmarks)
    form = standardised(statistics, landmarks)
    if config.notation_variance > 0:
        yield config.notation_variance, _rbf(form, landmarks)
    if config.length_variance > 0:
        yield config.length_variance, _rbf(form[:, : len(LENGTHS)], landmarks)
    if config.states_variance > 0 and table.states is not None:
        yield config.states_variance, _rbf(standardised(table.states.astype(np.float32), landmarks), landmarks)


def _rbf(values: FloatArray, landmarks: IntArray) -> _Kernel:
    """exp(-|x - x'|^2 / (2 m)), m the median squared distance of two landmarks."""
    anchors = values[landmarks].astype(np.float64)
    scale = rbf_scale(anchors)

    def kernel(rows: IntArray) -> tuple[FloatArray, FloatArray]:
        part = np.asarray(values[rows], dtype=np.float64)
        return np.exp(scale * squared_distances(part, anchors)), np.ones(len(part))

    return kernel


def _words(table: PromptTable, landmarks: IntArray) -> _Kernel:
    """Inner product of centred TF-IDF rows, scaled so that the landmarks' mean diagonal is 1."""
    counts = WORDS.counts(table.texts)
    weight = inverse_frequency(counts[landmarks])
    known = np.flatnonzero(weight)
    rows_of_words = with_columns(tfidf(counts, weight), known)
    anchors = rows_of_words[landmarks]
    # Nearly every prompt shares a word with every landmark: a sparse product of both would be full, and slow.
    of_anchors: Any = anchors.T.toarray() if len(known) <= _MAX_DENSE_COLUMNS else anchors.T.tocsr()
    centre = np.asarray(anchors.mean(axis=0)).ravel()
    anchors_on_centre = anchors @ centre
    norm = float(centre @ centre)
    scale = 1.0 / max(1.0 - norm, 1e-9)

    def kernel(rows: IntArray) -> tuple[FloatArray, FloatArray]:
        part: Any = rows_of_words[rows]
        on_centre = part @ centre
        squared = np.asarray(part.multiply(part).sum(axis=1)).ravel()
        products = part @ of_anchors
        products = products if isinstance(products, np.ndarray) else products.toarray()
        products = products - on_centre[:, None] - anchors_on_centre + norm
        return scale * products, scale * (squared - 2.0 * on_centre + norm)

    return kernel


def _nystroem(
    kernels: list[tuple[float, _Kernel]], landmarks: IntArray, num_rows: int, num_features: int
) -> tuple[FloatArray, FloatArray]:
    """columns [N, D] float32 and residual variances [N] of the weighed sum of kernels."""
    if not kernels:
        return np.zeros((num_rows, 0), dtype=np.float32), np.zeros(num_rows)
    projection = eigenfunctions(_weighed(kernels, landmarks)[0], num_features)
    columns = np.empty((num_rows, projection.shape[1]), dtype=np.float32)
    residual = np.empty(num_rows)
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        part = np.arange(start, min(start + _ROWS_AT_ONCE, num_rows))
        against, diagonal = _weighed(kernels, part)
        projected = against @ projection
        columns[part] = projected
        residual[part] = np.maximum(diagonal - (projected**2).sum(axis=1), 0.0)
    return columns, residual


def _weighed(kernels: list[tuple[float, _Kernel]], rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """The sum is taken kernel by kernel, in place: all kernels at once, and a stack of them, are what a large pool's
    memory went to."""
    (variance, first), *others = kernels
    against, diagonal = first(rows)
    against *= variance
    diagonal *= variance
    for variance, kernel in others:
        block, own = kernel(rows)
        block *= variance
        against += block
        diagonal += variance * own
    return against, diagonal
