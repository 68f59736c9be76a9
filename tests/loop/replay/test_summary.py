"""Windows, intervals and paired differences against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gps_ray.base.intervals import Estimate
from gps_ray.predictor.calibration import noise_ceiling
from gps_ray.predictor.recorded import RecordedSeries
from gps_ray.study.over_seeds import OverSeeds, over_seeds
from gps_ray.study.replay.protocol import CURVES, ReplayRun
from gps_ray.study.replay.summary import COLUMNS, ceilings_over_time, static_rows, summarise, table_rows

NUM_POINTS = 44


def _run(selector: str, seed: int, lift: float = 0.0) -> ReplayRun:
    """A Spearman that is its point in time in hundredths, plus ``lift`` and 0.01 per seed."""
    curves = {name: np.full(NUM_POINTS, np.nan) for name in CURVES}
    curves["spearman"] = np.arange(NUM_POINTS) / 100 + lift + 0.01 * seed
    curves["ece"] = np.where(np.arange(NUM_POINTS) < 2, 9.0, 0.05)
    curves["useful_group_ratio"] = np.where(np.arange(NUM_POINTS) < 2, 0.0, 0.44)
    curves["seconds"] = np.full(NUM_POINTS, 0.25)
    return ReplayRun(selector=selector, seed=seed, curves=curves, num_unique_prompts=100 + seed)


def over(figure: OverSeeds) -> Estimate:
    assert figure.estimate is not None
    return figure.estimate


def test_early_is_2_to_14_late_is_30_to_43_the_rest_from_2_on() -> None:
    runs = [_run("gps", seed) for seed in range(3)]
    figures = summarise(runs, np.linspace(0.90, 0.9, NUM_POINTS))["gps"]
    # The mean of 2..14 is 8, of 30..43 is 36.5; the seeds add 0, 1 and 2 hundredths.
    assert figures["spearman_early"].by_seed == pytest.approx([0.08, 0.09, 0.10])
    assert over(figures["spearman_early"]).value == pytest.approx(0.09)
    assert over(figures["spearman_late"]).value == pytest.approx(0.375)
    # t(0.975, 2) = 4.303, standard deviation 0.01.
    half = 4.3027 * 0.01 / math.sqrt(3)
    assert over(figures["spearman_early"]).low == pytest.approx(0.09 - half, abs=1e-5)
    assert over(figures["spearman_early"]).high == pytest.approx(0.09 + half, abs=1e-5)
    assert over(figures["ece"]).value == pytest.approx(0.05)
    assert over(figures["useful_group_ratio"]).value == pytest.approx(0.42)
    assert over(figures["num_unique_prompts"]).value == 101
    assert over(figures["seconds_per_step"]).value == 0.25
    assert over(figures["noise_ceiling"]).value == pytest.approx(0.9)
    assert figures["spearman_seen"] == OverSeeds(by_seed=(None,) * 3, estimate=None)
    assert "spearman_early_minus_beta_mean" not in figures


def test_differences_from_beta_mean_are_paired_by_seed() -> None:
    """Seeds differ by a hundredth each; the difference does not."""
    runs = [_run(name, seed, lift) for name, lift in (("beta_mean", 0.0), ("gps", 0.3)) for seed in range(4)]
    summary = summarise(runs, np.ones(NUM_POINTS))
    difference = over(summary["gps"]["spearman_late_minus_beta_mean"])
    assert difference.value == pytest.approx(0.3)
    assert difference.high - difference.low < 1e-9
    assert "spearman_late_minus_beta_mean" not in summary["beta_mean"]


def test_one_seed_bounds_nothing_and_a_short_series_has_no_late_part() -> None:
    assert over_seeds([0.5]).as_json() == {"mean": 0.5, "low": None, "high": None, "by_seed": [0.5]}
    assert over_seeds([float("nan")]).as_json() == {"mean": None, "low": None, "high": None, "by_seed": [None]}
    run = _run("gps", 0)
    short = ReplayRun(
        selector="gps", seed=0, curves={name: c[:20] for name, c in run.curves.items()}, num_unique_prompts=3
    )
    figures = summarise([short], np.ones(20))["gps"]
    assert figures["spearman_late"].estimate is None
    assert figures["noise_ceiling_late"].estimate is None
    assert over(figures["spearman_early"]).value == pytest.approx(0.08)


def test_a_table_for_people() -> None:
    summary = summarise([_run(name, seed) for name in ("gps", "uniform") for seed in range(2)], np.ones(NUM_POINTS))
    rows = table_rows(summary)
    assert [len(row) for row in rows] == [len(COLUMNS)] * 2
    assert rows[0][:4] == ("gps", "0.085±0.064", "0.370±0.064", "-")
    summary = {"gps": {"static_spearman_512": over_seeds([0.4, 0.4])}, "uniform": {}}
    assert static_rows(summary, [512]) == (("selector", "512 labels"), [("gps", "0.400±0.000")])


def test_the_ceiling_is_that_of_each_point() -> None:
    noisy, clear = np.arange(60) % 2 + 3, np.arange(60) % 9
    series = RecordedSeries(
        prompts=tuple(map(str, range(60))), num_right=np.stack([noisy, clear], axis=1), num_tried=np.full(60, 8)
    )
    ceilings = ceilings_over_time(series)
    assert ceilings.tolist() == [noise_ceiling(right, series.num_tried) for right in (noisy, clear)]
    assert ceilings[0] < 0.6 < 0.8 < ceilings[1]
