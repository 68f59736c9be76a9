"""Arms over matched seeds: the figures by hand, as JSON and on the page, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import DataError
from gps_ray.base.intervals import Estimate
from gps_ray.base.json_files import write_json
from gps_ray.study.paired import Crossing
from gps_ray.study.report import ArmSummary, as_json, read_comparison, write_comparison
from gps_ray.study.report.tables import cells, columns
from tests.loop.report.conftest import SMALL
from tests.loop.report.synthetic_run import write_synthetic_run
from tests.loop.report.test_run_report import Page

MakeRun = Callable[[str, Sequence[dict[str, float]]], Path]


def rows(accuracy: Sequence[float], rollouts: int = 100, cpu_s: float = 10.0) -> list[dict[str, float]]:
    """An evaluation every 10 steps that cost so much."""
    return [
        {
            "step": 10 * i,
            "val/pass@1": value,
            "cost/num_rollouts": rollouts * i,
            "cost/num_tokens": 8 * rollouts * i,
            "cost/cpu_s": cpu_s * i,
            "cost/wall_s": cpu_s * i,
        }
        for i, value in enumerate(accuracy)
    ]


# Smoothed: .1, .2, .3 and so on; the target is .4.
UNIFORM = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
# Smoothed: .2, .4, .6, .7: there after 3 evaluations of 5.
FAST = [0.0, 0.2, 0.4, 0.6, 0.8, 0.7]
# Never there.
SLOW = [0.0, 0.1, 0.1, 0.1, 0.1, 0.1]


@pytest.fixture
def folders(bare_run: MakeRun) -> dict[str, dict[int, Path]]:
    return {
        "uniform": {seed: bare_run(f"u{seed}", rows(UNIFORM)) for seed in (0, 1)},
        "gps": {seed: bare_run(f"g{seed}", rows(FAST, cpu_s=10.0 + 10.0 * seed)) for seed in (0, 1)},
        "ds": {0: bare_run("d0", rows(SLOW, rollouts=300)), 1: bare_run("d1", rows(FAST, rollouts=300))},
    }


def test_the_figures_by_hand(folders: dict[str, dict[int, Path]]) -> None:
    summary = read_comparison(folders, "uniform").summary
    assert (summary.baseline, summary.seeds) == ("uniform", (0, 1))
    assert summary.targets == pytest.approx([0.4, 0.4])
    _, gps, ds = summary.arms
    assert gps.figures["accuracy"].by_seed == pytest.approx([0.7, 0.7])
    assert ratio(gps, "rollouts").value == pytest.approx(300 / 500)
    # 30 of 50 CPU-seconds, and 60 of 50.
    assert [crossing.cost for crossing in gps.cost_to_target["cpu_s"].by_seed] == [30.0, 60.0]
    assert ratio(gps, "cpu_s").value == pytest.approx((0.6 * 1.2) ** 0.5)
    assert ratio(gps, "cpu_s").low < 0.6
    assert gps.difference["accuracy_at_equal_rollouts"].by_seed == pytest.approx([0.3, 0.3])
    # Within 50 CPU-seconds seed 1 gets to its third evaluation, smoothed .2.
    at_equal = gps.difference["accuracy_at_equal_cpu_s"]
    assert at_equal.by_seed == pytest.approx([0.3, -0.2])
    # s = .5 / sqrt(2), t(1 degree) = 12.7062
    assert at_equal.estimate is not None
    assert at_equal.estimate.high == pytest.approx(0.05 + 12.7062 * 0.25, abs=1e-4)
    never = ds.cost_to_target["rollouts"]
    assert never.by_seed == (Crossing(cost=1500, censored=True), Crossing(cost=900, censored=False))
    assert never.num_never == 1
    # Of seed 0 nothing smoothed lies within 500 rollouts.
    assert "accuracy_at_equal_rollouts" not in ds.difference


def ratio(arm: ArmSummary, cost: str) -> Estimate:
    estimate = arm.cost_to_target[cost].ratio
    assert estimate is not None
    return estimate


def test_the_json_holds_a_figure_per_line(tmp_path: Path, folders: dict[str, dict[int, Path]]) -> None:
    path = tmp_path / "compare.json"
    write_json(path, as_json(read_comparison(folders, "uniform", serial=True).summary))
    read = json.loads(path.read_text())
    assert (read["baseline"], read["seeds"], read["runs_one_after_the_other"]) == ("uniform", [0, 1], True)
    gps, ds = read["arms"]["gps"], read["arms"]["ds"]
    assert gps["figures"]["accuracy"] == {"mean": 0.7, "low": 0.7, "high": 0.7, "by_seed": [0.7, 0.7]}
    assert gps["difference_to_baseline"]["accuracy_at_equal_cpu_s"]["by_seed"] == [0.3, -0.2]
    assert ds["ratio_to_baseline"]["rollouts_to_target"]["costs"] == [1500, 900]
    assert ds["ratio_to_baseline"]["rollouts_to_target"]["never"] == [0]
    assert '    "accuracy": {"mean": 0.7, "low": 0.7, "high": 0.7, "by_seed": [0.7, 0.7]},' in path.read_text().split(
        "\n"
    )


def test_the_table_and_the_page_show_them(tmp_path: Path, folders: dict[str, dict[int, Path]]) -> None:
    comparison = read_comparison(folders, "uniform", serial=True)
    titles = [column.title for column in columns(comparison.summary)]
    table = [dict(zip(titles, row, strict=True)) for row in cells(comparison.summary)]
    assert [row["arm"] for row in table] == ["uniform", "gps", "ds"]
    assert table[0]["rollouts to target"] == "1"
    assert table[1]["rollouts to target"] == "0.60 [0.60, 0.60]"
    assert "(1 never)" in table[2]["rollouts to target"]
    assert table[2]["difference, equal rollouts"] == "-"
    html = write_comparison(comparison, tmp_path / "report.html").read_text()
    assert "0.60 [0.60, 0.60]" in html
    assert "shared the machine" not in html
    assert "2 matched seeds" in html
    assert "6 runs" in html
    assert html.count('aria-label="final pass@1 of every arm') == 1
    shared = write_comparison(read_comparison(folders, "uniform", serial=False), tmp_path / "shared.html").read_text()
    assert "shared the machine" in shared


def test_only_seeds_that_every_arm_has_are_compared(bare_run: MakeRun, folders: dict[str, dict[int, Path]]) -> None:
    folders["gps"][1] = bare_run("empty", [])
    comparison = read_comparison(folders, "uniform")
    assert comparison.summary.seeds == (0,)
    assert any("left out" in warning and "seed 1" in warning for warning in comparison.warnings)
    # One seed bounds nothing, and nothing is shown of it.
    assert np.isinf(ratio(comparison.summary.arms[1], "rollouts").high)
    assert as_json(comparison.summary)["arms"]["gps"]["ratio_to_baseline"]["rollouts_to_target"]["high"] is None
    assert not any("[" in cell for row in cells(comparison.summary) for cell in row)
    del folders["gps"][0], folders["uniform"][1]
    with pytest.raises(DataError, match="under every arm"):
        read_comparison(folders, "uniform")


def test_groups_count_by_slot_and_all_sections_have_figures(tmp_path: Path) -> None:
    folders = {
        name: {
            seed: write_synthetic_run(tmp_path / name / str(seed), replace(SMALL, selector=name, seed=seed))
            for seed in (0, 1)
        }
        for name in ("gps", "uniform")
    }
    comparison = read_comparison(folders)
    figures = comparison.summary.arms[0].figures
    for seed, run in enumerate(comparison.runs["gps"]):
        groups = run.groups
        useful = (groups.num_right > 0) & (groups.num_right < groups.num_tried)
        assert figures["useful_group_ratio_random"].by_seed[seed] == useful[groups.random_slot].mean()
        assert figures["useful_group_ratio_chosen"].by_seed[seed] == useful[~groups.random_slot].mean()
        assert figures["useful_group_ratio"].by_seed[seed] == useful.mean()
        assert figures["num_unique_prompts"].by_seed[seed] == len(set(groups.prompt_id))
    page = Page(write_comparison(comparison, tmp_path / "report.html").read_text())
    for anchor in ("target", "accuracy", "useful", "predictor"):
        assert anchor in page.ids
    assert page.tags.count("svg") >= 12
