"""From gains to a number of samples per prompt, at a fixed total."""

from __future__ import annotations

import heapq

import numpy as np

from gps_ray.base.errors import ConfigError
from gps_ray.base.types import FloatArray, IntArray

__all__ = ["allocate", "equal_order", "sample_order"]


def allocate(gains: FloatArray, total: int, minimum: int = 0) -> IntArray:
    """The best num_samples [N] with sum ``total`` and ``minimum`` <= num_samples <= J, for gains [N, J].

    maximise sum_i sum_{j <= num_samples_i} gains[i, j]. Gains that fall in j make the greedy choice optimal.
    """
    return np.bincount(sample_order(gains, total, minimum), minlength=len(gains))


def sample_order(gains: FloatArray, total: int, minimum: int = 0) -> IntArray:
    """[total] int64: the prompt of each sample in the order of choosing, so that every beginning of at least
    N * minimum samples is the allocation of that smaller total.

    First ``minimum`` for every prompt, then always the largest gain left; of equal ones the lowest prompt. Raises
    ConfigError where the total does not fit between the bounds, ValueError where a prompt's gains rise.
    """
    num_prompts, maximum = gains.shape
    _check_total(total, num_prompts, minimum, maximum)
    if num_prompts and np.any(np.diff(gains, axis=1) > 1e-12):
        raise ValueError("expected gains that fall with every further sample of a prompt, got rising ones")
    order = np.empty(total, dtype=np.int64)
    order[: num_prompts * minimum] = np.tile(np.arange(num_prompts), minimum)
    given = np.full(num_prompts, minimum)
    heap = [(-gains[i, minimum], i) for i in range(num_prompts)] if minimum < maximum else []
    heapq.heapify(heap)
    for place in range(num_prompts * minimum, total):
        _, best = heap[0]
        order[place] = best
        given[best] += 1
        if given[best] < maximum:
            heapq.heapreplace(heap, (-gains[best, given[best]], best))
        else:
            heapq.heappop(heap)
    return order


def equal_order(num_prompts: int, total: int) -> IntArray:
    """The same number for every prompt, as an order of samples: round by round, lowest prompt first."""
    return np.arange(total, dtype=np.int64) % num_prompts


def _check_total(total: int, num_prompts: int, minimum: int, maximum: int) -> None:
    if not 0 <= minimum <= maximum:
        raise ConfigError(f"minimum: expected 0 <= minimum <= maximum = {maximum}, got {minimum}; change one of them")
    if not num_prompts * minimum <= total <= num_prompts * maximum:
        raise ConfigError(
            f"budget: {num_prompts} prompts with {minimum} to {maximum} samples each take {num_prompts * minimum} to "
            f"{num_prompts * maximum} in all, got {total}; change the budget, the minimum or the maximum"
        )
