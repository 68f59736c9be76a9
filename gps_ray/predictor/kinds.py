"""Kinds of prompts without labels: clusters of the pool's text features."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from gps_ray.base.types import FloatArray, IntArray

__all__ = ["kinds_of"]

_NUM_LEADING = 32
_BLAS = ThreadpoolController()


def kinds_of(columns: FloatArray, num_pool: int, num_kinds: int) -> IntArray:
    """[N] int64 in [0, C): k-means over the leading text features [N, D], fitted on the first ``num_pool`` rows. Fewer
    kinds than asked for where fewer prompts differ. A function of the arguments alone."""
    leading = columns[:, :_NUM_LEADING].astype(np.float64)
    num_clusters = min(num_kinds, len(np.unique(leading[:num_pool], axis=0)))
    # One thread: the order of a sum must not depend on the machine's load.
    with _BLAS.limit(limits=1):
        fitted = KMeans(num_clusters, n_init=3, random_state=0).fit(leading[:num_pool])
        kinds: IntArray = fitted.predict(leading).astype(np.int64)
    return kinds
