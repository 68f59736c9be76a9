"""Kernel matrices between prompts and landmark prompts, and finite features from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.base.types import FloatArray, IntArray, State

__all__ = ["RbfFeatures", "eigenfunctions", "rbf_scale", "squared_distances", "standardised"]


def standardised(values: FloatArray, reference: IntArray) -> FloatArray:
    """values [N, F] with mean 0 and standard deviation 1 per column over the rows ``reference``; a column that does not
    vary there becomes 0."""
    mean, std = values[reference].mean(axis=0), values[reference].std(axis=0)
    varies = std > 1e-9
    scaled: FloatArray = (values - mean) * np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
    return scaled


def squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """|a_i - b_j|^2 [N, M] of rows a [N, F], b [M, F]."""
    squared: FloatArray = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.maximum(squared, 0.0)


def rbf_scale(anchors: FloatArray, sharpness: float = 1.0) -> float:
    """s <= 0 of exp(s |x - x'|^2): -sharpness / (2 m), m the median squared distance of two anchors [M, F]."""
    pairs = squared_distances(anchors, anchors)[np.triu_indices(len(anchors), 1)]
    median = float(np.median(pairs)) if len(pairs) else 0.0
    return -0.5 * sharpness / median if median > 0 else 0.0


def eigenfunctions(kernel: FloatArray, num_features: int) -> FloatArray:
    """[M, D]: turns kernel rows against M landmarks into features whose inner products approximate the kernel.

    Leading eigenvectors of ``kernel`` [M, M] over the roots of their eigenvalues (Nystroem).
    """
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    kept = np.flatnonzero(values > 1e-6 * values[-1])[::-1][:num_features]
    vectors = vectors[:, kept]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    signs = np.sign(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(len(kept))])
    projection: FloatArray = vectors * (signs / np.sqrt(values[kept]))
    return projection


@dataclass(frozen=True, slots=True, kw_only=True)
class RbfFeatures:
    """Finite features of exp(scale |x - x'|^2): anchors [M, F], projection [M, D], centre [D]."""

    anchors: FloatArray
    scale: float
    projection: FloatArray
    centre: FloatArray

    @classmethod
    def fit(cls, anchors: FloatArray, sharpness: float, num_features: int) -> RbfFeatures:
        """With the anchors as landmarks, centred over them."""
        scale = rbf_scale(anchors, sharpness)
        kernel = np.exp(scale * squared_distances(anchors, anchors))
        projection = eigenfunctions(kernel, num_features)
        centre = (kernel @ projection).mean(axis=0)
        return cls(anchors=anchors, scale=scale, projection=projection, centre=centre)

    def transform(self, values: FloatArray) -> FloatArray:
        """[N, D] float64."""
        kernel = np.exp(self.scale * squared_distances(np.asarray(values, dtype=np.float64), self.anchors))
        features: FloatArray = kernel @ self.projection - self.centre
        return features

    def state(self) -> State:
        return {
            "anchors": self.anchors,
            "scale": np.array(self.scale),
            "projection": self.projection,
            "centre": self.centre,
        }

    @classmethod
    def from_state(cls, state: State) -> RbfFeatures:
        """The inverse of ``state``; KeyError where an array is missing."""
        return cls(
            anchors=state["anchors"],
            scale=float(state["scale"]),
            projection=state["projection"],
            centre=state["centre"],
        )
