"""The sum of kernels is taken in place, and is to the bit the sum of their stack."""

from __future__ import annotations

import numpy as np

from gps_ray.base.types import FloatArray, IntArray
from gps_ray.predictor.fused_features import _weighed


def test_the_sum_in_place_is_the_sum_of_the_stack() -> None:
    rng = np.random.default_rng(0)
    blocks = [(variance, rng.normal(size=(50, 20)), rng.random(50)) for variance in (0.7, 1.3, 0.1, 2.9)]

    def kernel(block: FloatArray, diagonal: FloatArray):  # type: ignore[no-untyped-def]
        def of(rows: IntArray) -> tuple[FloatArray, FloatArray]:
            return block[rows], diagonal[rows]

        return of

    rows = np.arange(10, 40)
    against, diagonal = _weighed([(variance, kernel(block, own)) for variance, block, own in blocks], rows)
    assert np.array_equal(against, np.sum([variance * block[rows] for variance, block, _ in blocks], axis=0))
    assert np.array_equal(diagonal, np.sum([variance * own[rows] for variance, _, own in blocks], axis=0))
