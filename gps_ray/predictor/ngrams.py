"""Bags of hashed n-grams as sparse TF-IDF rows. No vocabulary is kept: a hash is the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gps_ray.base.types import FloatArray, IntArray

__all__ = ["CHARACTERS", "WORDS", "NgramHasher", "inverse_frequency", "tfidf", "with_columns"]

# A row per text, a column per bucket: scipy.sparse.csr_matrix [N, num_buckets].
SparseRows = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramHasher:
    """``kind`` of n-gram, lengths ``shortest`` to ``longest``, hashed (MurmurHash3) into ``num_buckets`` columns.

    ``counted``: an n-gram that occurs several times weighs 1 + log(count), else 1.
    """

    kind: Literal["characters", "words"]
    shortest: int
    longest: int
    counted: bool
    num_buckets: int = 1 << 20

    def counts(self, texts: Sequence[str]) -> SparseRows:
        """[N, num_buckets] float32, 0 where an n-gram does not occur."""
        from sklearn.feature_extraction.text import HashingVectorizer  # a second of import

        vectorizer = HashingVectorizer(
            analyzer="char" if self.kind == "characters" else "word",
            # Words, commands of LaTeX, single digits, single signs.
            token_pattern=None if self.kind == "characters" else r"[a-zA-Z]+|\\[a-zA-Z]+|\d|[^\sa-zA-Z\d]",
            ngram_range=(self.shortest, self.longest),
            n_features=self.num_buckets,
            alternate_sign=False,
            binary=not self.counted,
            norm=None,
            dtype=np.float32,
        )
        rows = vectorizer.transform(texts)
        rows.data = 1.0 + np.log(rows.data)
        return rows


WORDS = NgramHasher(kind="words", shortest=1, longest=2, counted=True)
CHARACTERS = NgramHasher(kind="characters", shortest=2, longest=6, counted=False)


def inverse_frequency(counts: SparseRows, min_texts: int = 2) -> FloatArray:
    """[num_buckets] float32: log((1 + N) / (1 + df)) + 1; 0 where fewer than ``min_texts`` texts have the n-gram."""
    num_texts, num_buckets = counts.shape
    frequency = np.bincount(counts.indices, minlength=num_buckets)
    weight: FloatArray = np.log((1.0 + num_texts) / (1.0 + frequency)) + 1.0
    weight[frequency < min_texts] = 0.0
    narrow: FloatArray = weight.astype(np.float32)
    return narrow


def with_columns(rows: SparseRows, columns: IntArray) -> SparseRows:
    """[N, K]: the rows in ``columns`` [K], ascending, which must be all that have entries."""
    from scipy.sparse import csr_matrix

    indices = np.searchsorted(columns, rows.indices).astype(rows.indices.dtype)
    return csr_matrix((rows.data, indices, rows.indptr), shape=(rows.shape[0], len(columns)))


def tfidf(counts: SparseRows, weight: FloatArray) -> SparseRows:
    """Rows weighed per bucket and brought to unit norm (a row without a known bucket stays zero)."""
    rows = counts.copy()
    rows.data = rows.data * weight[rows.indices]
    rows.eliminate_zeros()
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows.data /= np.repeat(np.where(norms > 0, norms, 1.0), np.diff(rows.indptr)).astype(np.float32)
    return rows
