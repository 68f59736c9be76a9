"""Quality of predictions against hand-computed values and simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from gps_ray.base.keyed_random import generator
from gps_ray.predictor.calibration import (
    brier_score,
    expected_calibration_error,
    noise_ceiling,
    not_useful_share,
    predictor_quality,
    rank_correlation,
    useful_auc,
)


def test_brier_is_the_mean_over_single_rollouts() -> None:
    mean, right, tried = np.array([0.2, 0.9]), np.array([1, 3]), np.array([4, 3])
    rollouts = [(0.2, 1), (0.2, 0), (0.2, 0), (0.2, 0), (0.9, 1), (0.9, 1), (0.9, 1)]
    assert brier_score(mean, right, tried) == pytest.approx(np.mean([(p - y) ** 2 for p, y in rollouts]))


def test_calibration_error_by_hand() -> None:
    mean = np.array([0.05, 0.07, 0.95, 1.0])
    rate = np.array([0.0, 0.5, 1.0, 0.5])
    # bin 0: mean .06 against .25, bin 9: .975 against .75; half of the prompts each (1.0 falls into the last bin)
    assert expected_calibration_error(mean, rate) == pytest.approx(0.5 * 0.19 + 0.5 * 0.225)


def test_not_useful_share_counts_the_groups_that_could_be_drawn() -> None:
    for tried, right, size in [(6, 4, 2), (6, 1, 3), (6, 0, 4), (6, 6, 6), (3, 2, 8), (3, 3, 8), (1, 0, 8)]:
        tries = [1] * right + [0] * (tried - right)
        groups = list(combinations(tries, min(size, tried)))
        expected = np.mean([len(set(group)) == 1 for group in groups])
        assert not_useful_share(np.array([right]), np.array([tried]), size)[0] == pytest.approx(expected)


def test_useful_auc_against_pairs() -> None:
    rng = generator(0, "test")
    mean, tried = rng.uniform(size=30), np.full(30, 10)
    right = rng.binomial(tried, mean)
    weight = not_useful_share(right, tried, 4)
    score = mean**4 + (1 - mean) ** 4
    wins = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    pairs = weight[:, None] * (1 - weight)[None, :]
    assert useful_auc(mean, right, tried, 4) == pytest.approx((wins * pairs).sum() / pairs.sum())


@pytest.mark.parametrize("num_tried", [8, 16])
def test_noise_ceiling_is_what_the_truth_reaches(num_tried: int) -> None:
    rng = generator(1, "test", num_tried)
    truth = 1 / (1 + np.exp(-rng.normal(scale=2.0, size=4000)))
    tried = np.full(4000, num_tried)
    right = rng.binomial(tried, truth)
    assert noise_ceiling(right, tried) == pytest.approx(spearmanr(truth, right / tried).statistic, abs=0.02)


def test_quality_leaves_out_prompts_without_a_verdict_and_is_nan_where_undefined() -> None:
    mean, right, tried = np.array([0.1, 0.6, 0.8, 0.3]), np.array([0, 2, 4, 0]), np.array([4, 4, 4, 0])
    quality = predictor_quality(mean, right, tried, 4)
    assert quality == predictor_quality(mean[:3], right[:3], tried[:3], 4)
    assert quality["spearman"] == pytest.approx(1.0)
    assert quality["mae"] == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert np.isnan(rank_correlation(np.full(3, 0.5), np.arange(3.0)))
    assert np.isnan(list(predictor_quality(mean[3:], right[3:], tried[3:], 4).values())).all()
    alike = predictor_quality(np.array([0.2, 0.4]), np.array([0, 0]), np.array([4, 4]), 4)
    assert np.isnan(alike["useful_auc"])
    assert alike["mae"] == pytest.approx(0.3)
