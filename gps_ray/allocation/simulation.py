"""What an allocation would have solved, on recorded outcomes: k of n tries of each prompt were right.

Best of b with a verifier, b of the n recorded tries drawn without replacement: the prompt is solved with probability
1 - C(n - k, b) / C(n, b) = 1 - prod_{i < b} (n - k - i) / (n - i), exactly and without bias for b <= n. So nothing is
drawn, and nothing is noise but the recorded outcomes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gps_ray.base.errors import DataError
from gps_ray.base.types import FloatArray, IntArray

__all__ = ["AllocationResult", "measure", "pass_table"]


def pass_table(num_right: IntArray, num_tried: IntArray, max_samples: int) -> FloatArray:
    """[N, J + 1]: probability that j = 0 .. J samples hold a right one. Raises DataError where n < J."""
    if len(num_tried) and num_tried.min() < max_samples:
        raise DataError(
            f"outcomes: up to {max_samples} samples per prompt need as many recorded tries, got a prompt with "
            f"{num_tried.min()}; lower --maximum or record more"
        )
    drawn = np.arange(max_samples)
    wrong, tried = (counts[:, None].astype(np.float64) for counts in (num_tried - num_right, num_tried))
    all_wrong = np.cumprod(np.maximum(wrong - drawn, 0.0) / (tried - drawn), axis=1)
    return np.concatenate([np.zeros((len(wrong), 1)), 1.0 - all_wrong], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationResult:
    """``pass_rate`` at the full total; ``points_gained`` over equal allocation in percentage points; ``samples_saved``:
    1 - samples needed / samples that equal allocation needs for the same pass rate, the highest that both reach.
    Negative for an allocator that is worse than equal."""

    pass_rate: float
    points_gained: float
    samples_saved: float


def measure(order: IntArray, equal: IntArray, table: FloatArray) -> AllocationResult:
    """Compare an order of samples [total] (``sample_order``) with equal allocation's, by ``pass_table`` [N, J + 1]."""
    curve, reference = _curve(order, table), _curve(equal, table)
    target = min(curve[-1], reference[-1])
    needed, needed_by_equal = _needed(curve, target), _needed(reference, target)
    return AllocationResult(
        pass_rate=float(curve[-1]),
        points_gained=100.0 * float(curve[-1] - reference[-1]),
        samples_saved=1.0 - needed / needed_by_equal if needed_by_equal else 0.0,
    )


def _needed(curve: FloatArray, target: float) -> int:
    return int(np.argmax(curve >= target - 1e-12))


def _curve(order: IntArray, table: FloatArray) -> FloatArray:
    """[total + 1]: mean pass rate after every further sample. Rises, rounding aside."""
    by_prompt = np.argsort(order, kind="stable")
    counts = np.bincount(order, minlength=len(table))
    # The how-manieth sample of its prompt each one is: positions within the runs of the sorted order.
    nth = np.empty(len(order), dtype=np.int64)
    nth[by_prompt] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    gained = table[order, nth + 1] - table[order, nth]
    return np.concatenate([[0.0], np.cumsum(gained) / len(table)])
