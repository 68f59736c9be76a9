"""Texts, embeddings and states as groups of features for a linear model (``text_prior``)."""

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
_SHARPNESS = {"statistics": 2.0, "embedding": 3.0, "states": 2.0}

# Prior variance of each group relative to the characters': chosen on recorded success rates, where they are flat.
_WEIGHTS = {"characters": 1.0, "words": 0.5, "statistics": 0.5, "embedding": 0.5, "states": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTexts:
    """What is read off the texts before anything is fitted: n-gram counts (sparse), statistics, embeddings and, where
    there are any, states [N, .]"""

    counts: dict[str, Any]
    dense: dict[str, FloatArray]

    def take(self, rows: Any) -> RawTexts:
        return RawTexts(
            counts={name: counts[rows] for name, counts in self.counts.items()},
            dense={name: values[rows] for name, values in self.dense.items()},
        )


def read_texts(texts: Sequence[str], embeddings: FloatArray, states: FloatArray | None = None) -> RawTexts:
    """embeddings [N, E] and states [N, F] of the same texts."""
    dense = {"statistics": text_statistics(texts), "embedding": np.asarray(embeddings, dtype=np.float64)}
    if states is not None:
        dense["states"] = np.asarray(states, dtype=np.float64)
    return RawTexts(counts={name: hasher.counts(texts) for name, hasher in _HASHERS.items()}, dense=dense)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder:
    """Four or five groups of features, each with a mean squared norm of about its weight.

    TF-IDF of hashed n-grams of characters and of words; leading eigenfunctions of RBF kernels on the embedding, on the
    text statistics and on the states. Statistics and states are standardised by ``scales`` (mean, std).
    """

    inverse_frequencies: dict[str, FloatArray]
    scales: dict[str, tuple[FloatArray, FloatArray]]
    kernels: dict[str, RbfFeatures]

    @classmethod
    def fit(cls, raw: RawTexts) -> TextEncoder:
        scales = {name: _scale(values) for name, values in raw.dense.items() if name != "embedding"}
        num = len(raw.dense["statistics"])
        num_landmarks = min(_NUM_LANDMARKS, num)
        rows = np.sort(generator(0, "text_prior/landmarks").choice(num, num_landmarks, replace=False))
        anchors = {name: _scaled(values[rows], scales.get(name)) for name, values in raw.dense.items()}
        return cls(
            inverse_frequencies={name: inverse_frequency(counts) for name, counts in raw.counts.items()},
            scales=scales,
            kernels={name: RbfFeatures.fit(anchors[name], _SHARPNESS[name], num_landmarks) for name in anchors},
        )

    def blocks(self, raw: RawTexts) -> list[Any]:
        """One matrix [N, .] float32 per group, sparse for the n-grams, in a fixed order."""
        blocks = []
        for name in _HASHERS:
            rows = tfidf(raw.counts[name], self.inverse_frequencies[name])
            rows.data *= np.float32(np.sqrt(_WEIGHTS[name]))
            blocks.append(rows)
        for name, kernel in self.kernels.items():
            features = np.sqrt(_WEIGHTS[name]) * kernel.transform(_scaled(raw.dense[name], self.scales.get(name)))
            blocks.append(features.astype(np.float32))
        return blocks

    def state(self) -> State:
        state: State = {}
        for name, (mean, std) in self.scales.items():
            state |= nested(f"scale/{name}", {"mean": mean, "std": std})
        state |= nested("inverse_frequency", self.inverse_frequencies)
        for name, kernel in self.kernels.items():
            state |= nested(name, kernel.state())
        return state

    @classmethod
    def from_state(cls, state: State) -> TextEncoder:
        """The inverse of ``state``; KeyError where an array is missing."""
        # Without states the fifth group is missing, no other may.
        names = [name for name in _SHARPNESS if name != "states" or below(name, state)]
        scales = {name: below(f"scale/{name}", state) for name in names if name != "embedding"}
        return cls(
            inverse_frequencies={name: below("inverse_frequency", state)[name] for name in _HASHERS},
            scales={name: (scale["mean"], scale["std"]) for name, scale in scales.items()},
            kernels={name: RbfFeatures.from_state(below(name, state)) for name in names},
        )


def _scale(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation [F]; infinite where a column does not vary, so that it becomes 0."""
    std = values.std(axis=0)
    return values.mean(axis=0), np.where(std > 1e-9, std, np.inf)


def _scaled(values: FloatArray, scale: tuple[FloatArray, FloatArray] | None) -> FloatArray:
    if scale is None:
        return values
    scaled: FloatArray = (values - scale[0]) / scale[1]
    return scaled
