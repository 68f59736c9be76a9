"""How good are predicted success rates? Pure functions of (predicted mean, num_right, num_tried), all [N].

Meant for probe sets: on a batch that was selected by these predictions every correlation is range-restricted.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray, IntArray

__all__ = [
    "brier_score",
    "expected_calibration_error",
    "noise_ceiling",
    "not_useful_share",
    "predictor_quality",
    "rank_correlation",
    "useful_auc",
]

_NUM_SPLITS = 32


def predictor_quality(mean: FloatArray, num_right: IntArray, num_tried: IntArray, group_size: int) -> dict[str, float]:
    """spearman, noise_ceiling, mae, brier, ece, useful_auc; NaN where a quantity is undefined.

    Prompts without a verdict (num_tried = 0) are left out. ``group_size`` is G of training.
    """
    judged = num_tried > 0
    mean, right, tried = np.asarray(mean, np.float64)[judged], num_right[judged], num_tried[judged]
    if not len(mean):
        return dict.fromkeys(("spearman", "noise_ceiling", "mae", "brier", "ece", "useful_auc"), np.nan)
    rate = right / tried
    return {
        "spearman": rank_correlation(mean, rate),
        "noise_ceiling": noise_ceiling(right, tried),
        "mae": float(np.abs(mean - rate).mean()),
        "brier": brier_score(mean, right, tried),
        "ece": expected_calibration_error(mean, rate),
        "useful_auc": useful_auc(mean, right, tried, group_size),
    }


def rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Spearman's rho with mid-ranks; NaN where one side does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    from scipy.stats import spearmanr  # a second of import, which no job is to wait for before it has its config

    return float(spearmanr(a, b).statistic)


def noise_ceiling(num_right: IntArray, num_tried: IntArray) -> float:
    """The Spearman that the true success rates would reach against these observed ones: sqrt(reliability).

    Reliability by split halves: the tries of each prompt are cut into two random halves, r is the Spearman of the
    halves' rates, and Spearman-Brown brings it to full length, 2r / (1 + r). Mean over 32 splits with a fixed key, so
    the figure is a function of the data. Prompts with a single try cannot be split and are left out.
    """
    several = num_tried >= 2
    right, tried = num_right[several].astype(np.int64), num_tried[several].astype(np.int64)
    rng = generator(0, "noise_ceiling")
    half = tried // 2
    splits = []
    for _ in range(_NUM_SPLITS):
        first = rng.hypergeometric(right, tried - right, half)
        splits.append(rank_correlation(first / np.maximum(half, 1), (right - first) / np.maximum(tried - half, 1)))
    r = max(float(np.mean(splits)), 0.0) if splits else float("nan")
    return float(np.sqrt(2 * r / (1 + r)))


def brier_score(mean: FloatArray, num_right: IntArray, num_tried: IntArray) -> float:
    """Mean over rollouts of (p - y)^2, y = 1 for a right response: sum_i [k (1 - p)^2 + (n - k) p^2] / sum_i n."""
    squared = num_right * (1 - mean) ** 2 + (num_tried - num_right) * mean**2
    return float(squared.sum() / num_tried.sum())


def expected_calibration_error(mean: FloatArray, rate: FloatArray, num_bins: int = 10) -> float:
    """sum_b (N_b / N) |mean predicted - mean observed| over bins of equal width in the prediction."""
    bins = np.minimum((mean * num_bins).astype(np.int64), num_bins - 1)
    gap = np.bincount(bins, weights=mean - rate, minlength=num_bins)
    return float(np.abs(gap).sum() / len(mean))


def not_useful_share(num_right: IntArray, num_tried: IntArray, group_size: int) -> FloatArray:
    """[N]: of all groups of G that can be drawn from the n tries, the share that is all right or all wrong.

    [C(k, G) + C(n - k, G)] / C(n, G), an unbiased estimate of g^G + (1 - g)^G; with fewer tries than G the group is
    the n tries themselves.
    """
    size = np.minimum(group_size, num_tried)
    right, wrong = num_right.astype(np.float64), (num_tried - num_right).astype(np.float64)
    share: FloatArray = _choose_ratio(right, num_tried, size) + _choose_ratio(wrong, num_tried, size)
    return share


def _choose_ratio(part: FloatArray, whole: IntArray, size: IntArray) -> FloatArray:
    """C(part, size) / C(whole, size), 0 where part < size."""
    possible = part >= size
    part = np.where(possible, part, whole)
    log_ratio = gammaln(part + 1) - gammaln(part - size + 1) - gammaln(whole + 1) + gammaln(whole - size + 1)
    ratio: FloatArray = np.where(possible, np.exp(log_ratio), 0.0)
    return ratio


def useful_auc(mean: FloatArray, num_right: IntArray, num_tried: IntArray, group_size: int) -> float:
    """AUC of p^G + (1 - p)^G as a score for "this prompt's group will not be useful".

    A prompt counts as not useful with weight w = ``not_useful_share`` and as useful with weight 1 - w, so that a
    probe with more tries than G uses all of them. NaN where only one kind occurs.
    """
    weight = np.clip(not_useful_share(num_right, num_tried, group_size), 0.0, 1.0)
    score = mean**group_size + (1 - mean) ** group_size
    label = np.repeat([1, 0], len(mean))
    weights = np.concatenate([weight, 1 - weight])
    used = weights > 0
    if len(np.unique(label[used])) < 2:
        return float("nan")
    from sklearn.metrics import roc_auc_score  # another second

    return float(roc_auc_score(label[used], np.tile(score, 2)[used], sample_weight=weights[used]))
