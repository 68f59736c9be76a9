"""Hashed n-grams: what counts, what it weighs."""

from __future__ import annotations

import numpy as np
import pytest

from gps_ray.predictor.ngrams import NgramHasher, inverse_frequency, tfidf

TEXTS = ["compute 12 + 7", "Compute 12 - 7", "solve x = 7", ""]


def test_words_and_pairs_are_counted_without_case() -> None:
    counts = NgramHasher(kind="words", shortest=1, longest=2, counted=True, num_buckets=1 << 16).counts(TEXTS)
    # compute, 1, 2, +, 7 and the four pairs of neighbours.
    assert counts[0].nnz == 9
    assert counts[3].nnz == 0
    assert (counts[0] != counts[1]).sum() == 6  # "+", "2 +", "+ 7" against "-", "2 -", "- 7"


@pytest.mark.parametrize(("counted", "weight"), [(True, 1 + np.log(3)), (False, 1.0)])
def test_repeated_characters(counted: bool, weight: float) -> None:
    hasher = NgramHasher(kind="characters", shortest=2, longest=2, counted=counted, num_buckets=1 << 10)
    np.testing.assert_allclose(hasher.counts(["aaaa"]).data, [weight], rtol=1e-6)


def test_rows_have_unit_norm_and_rare_ngrams_no_weight() -> None:
    counts = NgramHasher(kind="words", shortest=1, longest=1, counted=True, num_buckets=1 << 12).counts(TEXTS)
    weight = inverse_frequency(counts)
    rows = tfidf(counts, weight)
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    np.testing.assert_allclose(norms, [1, 1, 1, 0], atol=1e-6)
    seven = np.intersect1d(np.intersect1d(counts[0].indices, counts[1].indices), counts[2].indices)
    assert weight[seven] == pytest.approx(np.log(5 / 4) + 1)
    assert rows[2].nnz == 1  # of "solve x = 7" only 7 stands in another text
    assert counts.data.min() >= 1  # the counts themselves are left alone
