"""Selectors over matched seeds: the figures by hand, the page, what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gps_ray.base.errors import DataError
from gps_ray.study.report import SUMMARY_COLUMNS, summary_rows, write_seed_comparison
from gps_ray.study.report.run_data import read_run
from tests.unit.study.report.synthetic_run import Synthetic, write_synthetic_run
from tests.unit.study.report.test_run_report import Page

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


def test_the_figures_by_hand(tmp_path: Path, folders: dict[str, dict[int, Path]]) -> None:
    out = tmp_path / "out"
    summary = write_seed_comparison(folders, out, "uniform", serial=False)
    assert json.loads((out / "compare.json").read_text()) == summary
    assert (summary["baseline"], summary["seeds"]) == ("uniform", [0, 1])
    gps, ds = summary["selectors"]["gps"], summary["selectors"]["ds"]
    assert gps["figures"]["accuracy"]["values"] == pytest.approx([0.7, 0.7])
    assert gps["ratio_to_baseline"]["rollouts_to_target"]["value"] == pytest.approx(300 / 500)
    # 30 of 50 CPU-seconds, and 60 of 50.
    assert gps["ratio_to_baseline"]["cpu_s_to_target"]["costs"] == [30.0, 60.0]
    assert gps["ratio_to_baseline"]["cpu_s_to_target"]["value"] == pytest.approx((0.6 * 1.2) ** 0.5)
    assert gps["ratio_to_baseline"]["cpu_s_to_target"]["low"] < 0.6
    assert gps["difference_to_baseline"]["accuracy_at_equal_rollouts"]["mean"] == pytest.approx(0.3)
    # Within 50 CPU-seconds seed 1 gets to its third evaluation, smoothed .2.
    assert gps["difference_to_baseline"]["accuracy_at_equal_cpu_s"]["values"] == pytest.approx([0.3, -0.2])
    assert ds["ratio_to_baseline"]["rollouts_to_target"]["costs"] == [1500, 900]
    assert ds["ratio_to_baseline"]["rollouts_to_target"]["censored"] == [True, False]
    # Of seed 0 nothing smoothed lies within 500 rollouts.
    assert ds["difference_to_baseline"]["accuracy_at_equal_rollouts"] is None


def test_the_table_and_the_page_show_them(tmp_path: Path, folders: dict[str, dict[int, Path]]) -> None:
    summary = write_seed_comparison(folders, tmp_path / "out", "uniform", serial=True)
    table = [dict(zip(SUMMARY_COLUMNS, row, strict=True)) for row in summary_rows(summary)]
    assert [row["selector"] for row in table] == ["uniform", "gps", "ds"]
    assert table[0]["rollouts to target"] == "1"
    assert table[1]["rollouts to target"] == "0.60 [0.60, 0.60]"
    assert "(1 never)" in table[2]["rollouts to target"]
    assert table[2]["difference, equal rollouts"] == "-"
    html = (tmp_path / "out" / "report.html").read_text()
    assert "0.60 [0.60, 0.60]" in html
    assert "shared the machine" not in html
    assert "2 matched seeds" in html
    assert "6 runs" in html


def test_only_seeds_that_every_selector_has_are_compared(
    tmp_path: Path, bare_run: MakeRun, folders: dict[str, dict[int, Path]]
) -> None:
    folders["gps"][1] = bare_run("empty", [])
    summary = write_seed_comparison(folders, tmp_path / "out", "uniform", serial=False)
    assert summary["seeds"] == [0]
    # One seed bounds nothing.
    assert summary["selectors"]["gps"]["ratio_to_baseline"]["rollouts_to_target"]["high"] is None
    del folders["gps"][0]
    with pytest.raises(DataError, match="every selector"):
        write_seed_comparison(folders, tmp_path / "out", "uniform", serial=False)
    with pytest.raises(DataError, match="baseline"):
        write_seed_comparison(folders, tmp_path / "out", "mopps", serial=False)


def test_groups_count_by_slot_and_all_sections_have_figures(tmp_path: Path) -> None:
    runs = {
        name: write_synthetic_run(tmp_path / name, Synthetic(selector=name, num_steps=12, num_planned=12))
        for name in ("gps", "uniform")
    }
    folders = {name: {0: path} for name, path in runs.items()}
    summary = write_seed_comparison(folders, tmp_path / "out", "uniform", serial=False)
    figures = summary["selectors"]["gps"]["figures"]
    groups = read_run(runs["gps"]).groups
    useful = (groups.num_right > 0) & (groups.num_right < groups.num_tried)
    assert figures["useful_group_ratio_random"]["mean"] == useful[groups.random_slot].mean()
    assert figures["useful_group_ratio_chosen"]["mean"] == useful[~groups.random_slot].mean()
    assert figures["num_unique_prompts"]["mean"] == len(set(groups.prompt_id))
    page = Page((tmp_path / "out" / "report.html").read_text())
    for anchor in ("target", "accuracy", "useful", "predictor"):
        assert anchor in page.ids
    assert page.tags.count("svg") >= 12
