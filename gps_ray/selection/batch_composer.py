"""Scores + history-anchored diversity -> batch (METHOD 2; GPS, arXiv 2602.01970).

maximise over S, |S| = B:  sum_{i in S} u_i + lambda * D(S; recent)
greedy: argmax_i  u_i + within * mean_{v in S} (1 - e_i . e_v) + recent * mean_{v in recent} (1 - e_i . e_v)
"""

from __future__ import annotations

import numpy as np

from gps_ray.types import FloatArray, IntArray

__all__ = ["compose_batch"]


def compose_batch(
    scores: FloatArray,
    embeddings: FloatArray,
    num_prompts: int,
    *,
    diversity_within: float,
    diversity_recent: float = 0.0,
    recent: FloatArray | None = None,
    members: FloatArray | None = None,
) -> IntArray:
    """Greedy choice of ``num_prompts`` of N candidates, in the order of picking [B] int64.

    scores [N]; embeddings [N, E] of unit norm or zero; recent [R, E]: members of recent batches; members [K, E]:
    prompts that are in the batch already. A mean over nothing is 0.
    """
    base = scores.astype(np.float64)
    if recent is not None and len(recent):
        base = base + diversity_recent * (1.0 - embeddings @ recent.mean(axis=0))
    total = np.zeros(embeddings.shape[1]) if members is None else members.sum(axis=0, dtype=np.float64)
    num_members = 0 if members is None else len(members)
    picks = np.zeros(min(num_prompts, len(scores)), dtype=np.int64)
    for i in range(len(picks)):
        value = base if num_members == 0 else base + diversity_within * (1.0 - embeddings @ (total / num_members))
        picks[i] = np.argmax(value)
        base[picks[i]] = -np.inf
        total += embeddings[picks[i]]
        num_members += 1
    return picks
