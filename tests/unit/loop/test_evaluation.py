"""pass@k against enumeration of every draw; probe metrics against a case worked out by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.types import PosteriorMoments
from gps_ray.loop.evaluation import (
    MIN_PROBE_PROMPTS,
    avg_at_k,
    collect_counts,
    evaluation_metrics,
    pass_at_k,
    powers_of_two,
    probe_metrics,
    success_estimate,
)
from tests.unit.run.test_metrics import FIRST, SECOND


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("num_tried", [5, 7])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(num_tried: int, k: int) -> None:
    for num_right in range(num_tried + 1):
        draws = list(combinations([i < num_right for i in range(num_tried)], k))
        expected = sum(any(draw) for draw in draws) / len(draws)
        assert pass_at_k(np.array([num_right]), np.array([num_tried]), k)[0] == pytest.approx(expected)


def test_too_few_tries_have_no_unbiased_estimate() -> None:
    values = pass_at_k(np.array([1, 1, 0, 3]), np.array([1, 2, 0, 3]), 2)
    assert np.isnan(values[[0, 2]]).all()
    assert values[[1, 3]].tolist() == [1.0, 1.0]
    estimate = success_estimate(np.array([1, 1, 0, 3]), np.array([1, 2, 0, 3]), 2)
    assert (estimate.value, estimate.num_units) == (1.0, 2)


def test_avg_at_k_is_the_share_of_right_responses() -> None:
    assert avg_at_k(np.array([1, 3, 0]), np.array([4, 4, 2])).tolist() == [0.25, 0.75, 0.0]


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="num_right <= num_tried"):
        pass_at_k(np.array([3]), np.array([2]), 1)
    with pytest.raises(ValueError, match=r"num_right \[N\]"):
        pass_at_k(np.array([3, 1]), np.array([4]), 1)
    with pytest.raises(ValueError, match="k >= 1"):
        pass_at_k(np.array([1]), np.array([2]), 0)
    with pytest.raises(DataError, match=r"evaluation\.rollouts_per_prompt to 4"):
        success_estimate(np.array([1]), np.array([2]), 4)


def test_reported_k() -> None:
    assert [powers_of_two(n) for n in (0, 1, 3, 4, 9)] == [[], [1], [1, 2], [1, 2, 4], [1, 2, 4, 8]]


def test_evaluation_metrics_by_hand() -> None:
    metrics = evaluation_metrics(
        np.array([2, 0, 4, 0]), np.array([4, 4, 4, 0]), np.zeros(4, int), ["easy", "hard", "easy", "hard"]
    )
    assert metrics["val/num_prompts"] == 3
    assert metrics["val/pass@1"] == pytest.approx(0.5)
    # pass@2 of 2 right among 4: 1 - C(2, 2) / C(4, 2)
    assert metrics["val/pass@2"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert metrics["val/pass@4"] == pytest.approx(2 / 3)
    assert metrics["val/pass@1/level/easy"] == pytest.approx(0.75)
    assert metrics["val/pass@1/level/hard"] == 0.0
    assert metrics["val/pass@1/low"] < 0.5 < metrics["val/pass@1/high"]


def test_an_evaluation_without_any_verdict_says_so() -> None:
    assert evaluation_metrics(np.zeros(2, int), np.zeros(2, int), np.zeros(2, int), ["", ""]) == {
        "val/num_prompts": 0,
        "val/num_failed": 0,
    }


def test_fewer_verdicts_are_never_a_better_score() -> None:
    metrics = evaluation_metrics(np.array([1, 2]), np.array([1, 4]), np.array([3, 0]), ["", ""])
    assert metrics["val/pass@1"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert metrics["val/num_failed"] == 3


def test_counts_follow_the_prompts_asked_for_not_the_chunks() -> None:
    counts = collect_counts(["d", "e", "a", "c", "b"], [SECOND, FIRST], 4)
    assert counts.num_right.tolist() == [1, 0, 2, 0, 4]
    assert counts.num_tried.tolist() == [2, 0, 4, 4, 4]
    assert (counts.num_rollouts, counts.num_tokens, counts.cpu_s) == (16, 80, 2.0)


def test_a_group_that_could_not_be_made_counts_as_not_solved() -> None:
    """Left out, it would raise the score."""
    counts = collect_counts(["d", "e", "a", "c", "b"], [SECOND, FIRST], 4)
    assert {failure.prompt_id for header in (FIRST, SECOND) for failure in header.failures} == {"e"}
    assert counts.num_failed.tolist() == [2, 4, 0, 0, 0]
    metrics = evaluation_metrics(counts.num_right, counts.num_tried, counts.num_failed, [""] * 5)
    assert metrics["val/pass@1"] == pytest.approx((1 / 4 + 0 + 2 / 4 + 0 + 4 / 4) / 5)
    assert metrics["val/num_failed"] == 6


def test_probe_quality_is_split_by_own_outcomes() -> None:
    """The seen half is ranked right, the other half upside down: the parts must show it."""
    num = 2 * MIN_PROBE_PROMPTS
    seen = np.arange(num) < MIN_PROBE_PROMPTS
    rank = np.arange(num) % MIN_PROBE_PROMPTS
    mean = 0.05 + 0.09 * np.where(seen, rank, rank[::-1])
    metrics = probe_metrics("pool_probe", PosteriorMoments(mean=mean, std=mean, seen=seen), rank, np.full(num, 16), 8)
    assert metrics["predictor/pool_probe_spearman_seen"] == pytest.approx(1.0)
    assert metrics["predictor/pool_probe_spearman_unseen"] == pytest.approx(-1.0)
    assert metrics["predictor/pool_probe_spearman"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["predictor/pool_probe_num_seen"] == MIN_PROBE_PROMPTS
    assert all(np.isfinite(value) for value in metrics.values())


def test_a_part_too_small_and_prompts_without_verdict_are_left_out() -> None:
    num = MIN_PROBE_PROMPTS + 3
    tried = np.where(np.arange(num) < MIN_PROBE_PROMPTS - 1, 16, 0)
    prediction = PosteriorMoments(mean=np.linspace(0, 1, num), std=np.zeros(num), seen=np.ones(num, bool))
    metrics = probe_metrics("heldout_probe", prediction, np.minimum(np.arange(num), tried), tried, 8)
    assert metrics == {"predictor/heldout_probe_num_seen": MIN_PROBE_PROMPTS - 1}
