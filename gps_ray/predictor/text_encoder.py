"""Texts and embeddings as groups of features for a linear model (``text_prior``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gps_ray.base.keyed_random import generator
from gps_ray.base.states import below, nested
from gps_ray.base.types import FloatArray, State
from gps_ray.predictor.kernels import RbfFeatures
from gps_ray.predictor.ngrams import CHARACTERS, WORDS, inverse_frequency, tfidf
from gps_ray.predictor.text_statistics import text_statistics

__all__ = ["RawTexts", "TextEncoder", "read_texts"]

_NUM_LANDMARKS = 1000
_HASHERS = {"characters": CHARACTERS, "words": WORDS}
_SHARPNESS = {"statistics": 2.0, "embedding": 3.0}

# Prior variance of each group relative to the characters': chosen on recorded success rates, where they are flat.
_WEIGHTS = {"characters": 1.0, "words": 0.5, "statistics": 0.5, "embedding": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTexts:
    """What is read off the texts before anything is fitted: n-gram counts (sparse), statistics and embeddings [N, .]"""

    counts: dict[str, Any]
    dense: dict[str, FloatArray]

    def take(self, rows: Any) -> RawTexts:
        return RawTexts(
            counts={name: counts[rows] for name, counts in self.counts.items()},
            dense={name: values[rows] for name, values in self.dense.items()},
        )


def read_texts(texts: Sequence[str], embeddings: FloatArray) -> RawTexts:
    """embeddings [N, E] of the same texts."""
    return RawTexts(
        counts={name: hasher.counts(texts) for name, hasher in _HASHERS.items()},
        dense={"statistics": text_statistics(texts), "embedding": np.asarray(embeddings, dtype=np.float64)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """Four groups of features, each with a mean squared norm of about its weight.

    TF-IDF of hashed n-grams of characters and of words; leading eigenfunctions of RBF kernels on the embedding and on
    the text statistics.
    """

    inverse_frequencies: dict[str, FloatArray]
    mean: FloatArray
    std: FloatArray
    kernels: dict[str, RbfFeatures]

    @classmethod
    def fit(cls, raw: RawTexts) -> TextEncoder:
        statistics = raw.dense["statistics"]
        std = statistics.std(axis=0)
        mean, std = statistics.mean(axis=0), np.where(std > 1e-9, std, np.inf)
        num_landmarks = min(_NUM_LANDMARKS, len(statistics))
        rows = np.sort(generator(0, "text_prior/landmarks").choice(len(statistics), num_landmarks, replace=False))
        anchors = {"statistics": (statistics[rows] - mean) / std, "embedding": raw.dense["embedding"][rows]}
        return cls(
            inverse_frequencies={name: inverse_frequency(counts) for name, counts in raw.counts.items()},
            mean=mean,
            std=std,
            kernels={name: RbfFeatures.fit(anchors[name], _SHARPNESS[name], num_landmarks) for name in anchors},
        )

    def blocks(self, raw: RawTexts) -> list[Any]:
        """One matrix [N, .] float32 per group, sparse for the n-grams, in a fixed order."""
        blocks = []
        for name in _HASHERS:
            rows = tfidf(raw.counts[name], self.inverse_frequencies[name])
            rows.data *= np.float32(np.sqrt(_WEIGHTS[name]))
            blocks.append(rows)
        statistics = (raw.dense["statistics"] - self.mean) / self.std
        for name, values in (("statistics", statistics), ("embedding", raw.dense["embedding"])):
            features = np.sqrt(_WEIGHTS[name]) * self.kernels[name].transform(values)
            blocks.append(features.astype(np.float32))
        return blocks

    def state(self) -> State:
        state: State = {"mean": self.mean, "std": self.std}
        state |= nested("inverse_frequency", self.inverse_frequencies)
        for name, kernel in self.kernels.items():
            state |= nested(name, kernel.state())
        return state

    @classmethod
    def from_state(cls, state: State) -> TextEncoder:
        """The inverse of ``state``; KeyError where an array is missing."""
        return cls(
            inverse_frequencies={name: below("inverse_frequency", state)[name] for name in _HASHERS},
            mean=state["mean"],
            std=state["std"],
            kernels={name: RbfFeatures.from_state(below(name, state)) for name in _SHARPNESS},
        )
