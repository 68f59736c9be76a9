"""An evaluation's figures by hand, and its page with hostile text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.intervals import mean_estimate
from gps_ray.base.types import Prompt, RolloutSample, RolloutStatus, Sampling
from gps_ray.loop.evaluation import Counts, suite_metrics
from gps_ray.loop.suites import Suite
from gps_ray.study.evaluation import SuiteResult, as_json, differences, table_rows, write_page

HOSTILE = "<script>alert(1)</script>\u202e\0"


def _result(right: list[int], failed: int = 0) -> SuiteResult:
    num = len(right)
    prompts = tuple(
        Prompt(prompt_id=str(i), text=HOSTILE, answer="1", task="ab"[i % 2], level="<b>") for i in range(num)
    )
    sampling = Sampling(temperature=1, max_response_tokens=4)
    answers = tuple(tuple([("1", 1)] * r + [("2", 0)] * (4 - r)) for r in right)
    tried = np.full(num, 4, np.int32)
    tried[0] -= failed
    counts = Counts(
        num_right=np.array(right, np.int32),
        num_tried=tried,
        num_failed=4 - tried,
        num_rollouts=4 * num,
        num_tokens=40,
        cpu_s=1.0,
        worker_s=2.0,
        num_truncated=4,
        answers=answers,
    )
    sample = RolloutSample(
        prompt_id="0", prompt_text=HOSTILE, response_text=HOSTILE, reward=0, status=RolloutStatus.FAILED
    )
    suite = Suite(name="x", prompts=prompts, sampling=sampling, rollouts_per_prompt=4, task="math")
    return SuiteResult(suite=suite, counts=counts, samples=(sample,), num_cached=0)


def test_figures_by_hand() -> None:
    found = as_json({"x": _result([0, 1, 4, 3])})["x"]
    assert found["avg@4"]["mean"] == pytest.approx(0.5)
    # 1 - C(n - c, 2) / C(n, 2): 0, 1/2, 1, 1
    assert found["pass@2"]["mean"] == pytest.approx(2.5 / 4)
    # All four vote: 0, 0, 1, 1; of two, ties are shared, so it is the mean of one.
    assert found["maj@4"]["mean"] == pytest.approx(0.5)
    assert found["maj@2"]["mean"] == pytest.approx(0.5)
    assert found["by_source"]["a"]["mean"] == pytest.approx(0.5)
    assert found["by_level"]["<b>"]["num_prompts"] == 4
    assert found["truncated_ratio"] == 0.25
    metrics = suite_metrics(_result([0, 1, 4, 3]).suite, _result([0, 1, 4, 3]).counts)
    assert metrics["val/x/maj@4"] == pytest.approx(0.5)
    assert metrics["val/x/pass@1/source/b"] == pytest.approx(0.5)
    assert metrics["val/x/response_length"] == 2.5


def test_a_response_without_a_verdict_never_raises_a_score() -> None:
    assert as_json({"x": _result([1, 1], failed=2)})["x"]["avg@4"] == as_json({"x": _result([1, 1])})["x"]["avg@4"]


def test_differences_are_paired_by_prompt() -> None:
    first, second = _result([0, 1, 2, 3]), _result([1, 2, 3, 4])
    difference = differences(first, second)["avg@4"]
    # Each prompt gained a quarter: no doubt is left, though the models' own intervals overlap widely.
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.25, 0.25, 0.25))
    assert first.estimates()["avg@4"].high > second.estimates()["avg@4"].low
    uneven = differences(_result([0, 1, 2, 3]), _result([4, 1, 0, 3]))["avg@4"]
    assert uneven == mean_estimate(np.array([1.0, 0, -0.5, 0]), (-1, 1))


def test_hostile_text_stays_text_on_the_page(tmp_path: Path) -> None:
    result = _result([0, 1])
    page = write_page({HOSTILE: {"x": result}}, {}, tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert all(len(row) == 5 for row in table_rows({"x": result}))
