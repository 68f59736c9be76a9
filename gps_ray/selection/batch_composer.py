"""Scores + history-anchored diversity -> batch (GPS, arXiv 2602.01970).

    maximise over S, |S| = B:  sum_{i in S} u_i + lambda * D(S; recent)
    greedy:  argmax_i  u_i + within * mean_{v in S} (1 - e_i . e_v) + recent * mean_{v in R} (1 - e_i . e_v)

The greedy is a 2-approximation (Borodin, Lee, Ye, arXiv 1203.6397). Here it is exact and fast: with
w = within * mean(S) + recent * mean(R) a candidate's value is u_i - e_i . w plus what all candidates share, so one
running vector is enough; and since |e_i . r| <= ||r||, one pass over the embeddings at w0 bounds every candidate's
value while w moves away from w0. Only candidates whose bound reaches the best known value are looked at again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gps_ray.base.types import BoolArray, FloatArray, IntArray

__all__ = ["TIE", "Composition", "compose", "compose_batch"]

# Values closer than this, in float64, are a tie, and the lowest index wins: a BLAS product rounds by where a row lies.
TIE = 1e-9
# Unit norms hold up to float32 rounding; the bounds allow for that.
_MAX_NORM = 1.0 + 1e-5
# Rows that a widening brings into the block at least, and the most it gathers without a full pass: tuned on clustered
# vectors (40,000 x 256). 1,536 rows and blocks of 2,560 cost a quarter more time, on a grid of means twice as much.
_BLOCK_ROWS, _GATHER_ROWS, _MAX_BLOCK_ROWS = 2560, 1024, 4096
# So few candidates are all put into the block: looking at them costs less than keeping bounds.
_FEW_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """picks [B] int64 in the order of picking; what it took: full passes over the embeddings, and rows read beside."""

    picks: IntArray
    num_full_passes: int
    num_rows_read: int


def compose_batch(
    scores: FloatArray,
    embeddings: FloatArray,
    num_prompts: int,
    *,
    diversity_within: float,
    diversity_recent: float = 0.0,
    recent: FloatArray | None = None,
    members: FloatArray | None = None,
    available: BoolArray | None = None,
) -> IntArray:
    """The picks of ``compose``, in the order of picking [B] int64."""
    return compose(
        scores,
        embeddings,
        num_prompts,
        diversity_within=diversity_within,
        diversity_recent=diversity_recent,
        recent=recent,
        members=members,
        available=available,
    ).picks


def compose(
    scores: FloatArray,
    embeddings: FloatArray,
    num_prompts: int,
    *,
    diversity_within: float,
    diversity_recent: float = 0.0,
    recent: FloatArray | None = None,
    members: FloatArray | None = None,
    available: BoolArray | None = None,
) -> Composition:
    """Greedy choice of ``num_prompts`` of N candidates (fewer only where fewer are available).

    scores [N]; embeddings [N, E] float32 with rows of unit norm or zero; recent [R, E]: members of recent batches;
    members [K, E]: prompts that are in the batch already; available [N] bool: which candidates may be picked (all).
    A mean over nothing is 0. Raises ValueError for a score that is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite: an acquisition returned NaN or infinity")
    free = np.ones(len(scores), dtype=np.bool_) if available is None else available.copy()
    num_picks = min(num_prompts, int(np.count_nonzero(free)))
    anchor = _mean(recent, embeddings.shape[1]) * diversity_recent
    weighted = diversity_within > 0 or bool(anchor.any())
    if not weighted or not (embeddings[:64].any() or embeddings.any()):
        return Composition(picks=_by_score(scores, free, num_picks), num_full_passes=0, num_rows_read=0)
    search = _Search(scores, embeddings, free)
    num_members = 0 if members is None else len(members)
    total = _mean(members, embeddings.shape[1]) * num_members
    picks = np.zeros(num_picks, dtype=np.int64)
    for i in range(num_picks):
        within = total * (diversity_within / num_members) if num_members else 0.0
        picks[i] = search.take_best(anchor + within)
        total += embeddings[picks[i]]
        num_members += 1
    return Composition(picks=picks, num_full_passes=search.num_full_passes, num_rows_read=search.num_rows_read)


def _mean(rows: FloatArray | None, dim: int) -> FloatArray:
    """Mean row in float64, 0 for no rows."""
    if rows is None or not len(rows):
        return np.zeros(dim)
    return np.asarray(rows.mean(axis=0, dtype=np.float64))


def _by_score(scores: FloatArray, free: BoolArray, num_picks: int) -> IntArray:
    """The greedy where diversity says nothing: the best scores, ties by index."""
    rows = np.flatnonzero(free)
    values = scores[rows].astype(np.float64)
    if 0 < num_picks < len(rows):
        # A pick is within TIE of the best that is left, and that is never below the num_picks-th best.
        reach = values >= np.partition(values, -num_picks)[-num_picks] - TIE
        rows, values = rows[reach], values[reach]
    picks = np.zeros(num_picks, dtype=np.int64)
    for i in range(num_picks):
        place = int(np.argmax(values >= values.max() - TIE))
        picks[i] = rows[place]
        values[place] = -np.inf
    return picks


class _Search:
    """Finds argmax_i u_i - e_i . w over the free candidates for a w that moves slowly.

    A block holds the rows that may be best now. All others are bounded: at the last full pass (w0) their products
    d_i = e_i . w0 were taken, and for w = alpha * w0 + r with r orthogonal to w0

        u_i - e_i . w  <=  u_i - alpha * d_i + ||e_i|| * ||r||.

    The largest of these bounds at some w_a is the ceiling; at another w it is higher by at most ||w - w_a||. When the
    best of the block does not clear the ceiling, the bounds are taken anew at w: rows that reach the best join the
    block, or, if they are many, a full pass at w makes the bounds tight and builds the block afresh.
    """

    def __init__(self, scores: FloatArray, embeddings: FloatArray, free: BoolArray) -> None:
        self._scores = scores.astype(np.float64)
        self._embeddings = embeddings
        self._outside: FloatArray = np.where(free, self._scores, -np.inf)  # u of the free rows outside the block
        # |computed - exact| of a float32 dot product, per unit of ||w|| (n * u, and one more for rounding w itself).
        self._rounding = (embeddings.shape[1] + 1) * 2.0**-24 * _MAX_NORM
        self._products: FloatArray | None = None  # d [N] at w0; None while w0 = 0
        self._origin: FloatArray = np.zeros(embeddings.shape[1])
        few = len(embeddings) if len(embeddings) <= _FEW_ROWS else 0
        self._gather_rows = max(_GATHER_ROWS, len(embeddings) // 128, few)
        self._max_block_rows = max(_MAX_BLOCK_ROWS, len(embeddings) // 64, few)
        self._block = _Block(embeddings, self._max_block_rows)
        self._ceiling = np.inf
        self._ceiling_at: FloatArray = self._origin
        self.num_full_passes = 0
        self.num_rows_read = 0

    def take_best(self, w: FloatArray) -> int:
        """The best row at w (the lowest of those within TIE of it); it is taken out."""
        if not w.any():
            return self._take_best_score()
        rounding = self._rounding * _norm(w)
        rows, values = self._block.near_best(w, rounding)
        while values.max(initial=-np.inf) - TIE <= self._ceiling + _MAX_NORM * _norm(w - self._ceiling_at):
            self._widen(w, values.max(initial=-np.inf) - TIE)
            rows, values = self._block.near_best(w, rounding)
        best = int(rows[values >= values.max() - TIE].min())
        self._block.remove(best)
        return best

    def _take_best_score(self) -> int:
        """At w = 0 the scores alone decide (the first pick where nothing came before)."""
        self._empty_block()
        best = int(np.argmax(self._outside >= self._outside.max() - TIE))
        self._outside[best] = -np.inf
        self._ceiling = np.inf
        return best

    def _widen(self, w: FloatArray, bar: float) -> None:
        """Bring every row whose bound at w reaches ``bar`` into the block, and set the ceiling over the others."""
        bounds = self._bounds(w)
        num_reach = int(np.count_nonzero(bounds >= bar))
        if num_reach > self._gather_rows or num_reach + self._block.num_rows > self._max_block_rows:
            self._full_pass(w)
            bounds = self._bounds(w)
            num_reach = int(np.count_nonzero(bounds >= bar)) if bar > -np.inf else 0
        num_joining = min(max(num_reach, _BLOCK_ROWS), int(np.count_nonzero(bounds > -np.inf)))
        if num_joining:
            joining = np.argpartition(bounds, -num_joining)[-num_joining:]
            self._block.add(joining, self._scores[joining])
            self._outside[joining] = bounds[joining] = -np.inf
            self.num_rows_read += num_joining
        self._ceiling, self._ceiling_at = float(bounds.max()), w

    def _bounds(self, w: FloatArray) -> FloatArray:
        """[N]: upper bounds at w of the values of all rows outside the block; -inf for the others."""
        if self._products is None:
            return np.asarray(self._outside + _MAX_NORM * _norm(w))
        square = float(self._origin @ self._origin)
        alpha = float(w @ self._origin) / square
        slack = _MAX_NORM * _norm(w - alpha * self._origin) + abs(alpha) * self._rounding * square**0.5
        return np.asarray(self._outside - alpha * self._products + slack)

    def _full_pass(self, w: FloatArray) -> None:
        """Take all products at w; the block starts afresh."""
        self._empty_block()
        self._products = (self._embeddings @ w.astype(np.float32)).astype(np.float64)
        self._origin = w
        self.num_full_passes += 1

    def _empty_block(self) -> None:
        rows = self._block.clear()
        self._outside[rows] = self._scores[rows]


class _Block:
    """Some rows of the embeddings side by side, with their scores (-inf once picked)."""

    def __init__(self, embeddings: FloatArray, max_rows: int) -> None:
        self._embeddings = embeddings
        self._max_rows = min(max_rows, len(embeddings))
        self._reserve(self._max_rows)
        self.num_rows = 0

    def _reserve(self, num_rows: int) -> None:
        self._rows = np.empty(num_rows, dtype=np.int64)
        self._scores = np.empty(num_rows)
        self._vectors: FloatArray = np.empty((num_rows, self._embeddings.shape[1]), dtype=self._embeddings.dtype)

    def add(self, rows: IntArray, scores: FloatArray) -> None:
        end = self.num_rows + len(rows)
        if end > len(self._rows):  # more equals than a block should hold (a pool of identical prompts)
            held = (self._rows[: self.num_rows], self._scores[: self.num_rows], self._vectors[: self.num_rows])
            self._reserve(end)
            self._rows[: self.num_rows], self._scores[: self.num_rows], self._vectors[: self.num_rows] = held
        self._rows[self.num_rows : end] = rows
        self._scores[self.num_rows : end] = scores
        np.take(self._embeddings, rows, axis=0, out=self._vectors[self.num_rows : end], mode="clip")
        self.num_rows = end

    def near_best(self, w: FloatArray, rounding: float) -> tuple[IntArray, FloatArray]:
        """The rows that can be best or tied with it, given a float32 product wrong by ``rounding`` at most, with their
        values in float64."""
        scores, vectors = self._scores[: self.num_rows], self._vectors[: self.num_rows]
        values: FloatArray = scores - vectors @ w.astype(np.float32)
        bar = values.max(initial=-np.inf) - 2 * rounding - TIE
        near = np.flatnonzero((values >= bar) & (scores > -np.inf))
        # Row by row with numpy's own sum, whose rounding does not depend on where a row lies.
        return self._rows[near], scores[near] - np.add.reduce(vectors[near] * w, axis=1)

    def remove(self, row: int) -> None:
        self._scores[: self.num_rows][self._rows[: self.num_rows] == row] = -np.inf

    def clear(self) -> IntArray:
        """Empty the block; returns the rows it held that were not removed."""
        left = self._rows[: self.num_rows][self._scores[: self.num_rows] > -np.inf].copy()
        self.num_rows = 0
        return left


def _norm(vector: FloatArray) -> float:
    return math.sqrt(float(vector @ vector))
