"""Several runs beside each other: the table's numbers by hand, the page, the entry point."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from gps_ray.base.errors import DataError
from gps_ray.study.paired import Crossing
from gps_ray.study.report import comparison_table, named_runs, print_comparison, write_comparison
from gps_ray.study.report.tables import COLUMNS
from jobs.report import main
from tests.unit.study.report.test_run_report import OWN, Page

MakeRun = Callable[[str, Sequence[dict[str, float]]], Path]
UNIFORM = [0.20, 0.26, 0.29, 0.35, 0.38, 0.35]
BETTER = [0.20, 0.30, 0.36, 0.42, 0.44, 0.43]
WORSE = [0.20, 0.20, 0.21, 0.22, 0.20, 0.21]


def rows(accuracy: Sequence[float], ratio: float, cpu_s: float) -> list[dict[str, float]]:
    """An evaluation every 10 steps of 256 rollouts."""
    return [
        {
            "step": 10 * i,
            "val/pass@1": value,
            "cost/num_rollouts": 2560 * i,
            "cost/cpu_s": cpu_s * i,
            "cost/num_tokens": 20480 * i,
        }
        | ({"selection/useful_group_ratio": ratio * i, "selection/num_groups": 32 / i} if i else {})
        for i, value in enumerate(accuracy)
    ]


@pytest.fixture
def runs(bare_run: MakeRun) -> dict[str, Path]:
    return {
        "worse": bare_run("worse", rows(WORSE, 0.1, 10)),
        "uniform": bare_run("uniform", rows(UNIFORM, 0.1, 10)),
        "gps": bare_run("gps", [*rows(BETTER, 0.2, 12), {"step": 60, "predictor/pool_probe_spearman": 0.5}]),
    }


def test_the_table_by_hand(runs: dict[str, Path]) -> None:
    table = comparison_table(runs)
    assert table.baseline == "uniform"
    assert table.target == pytest.approx(0.36)
    worse, uniform, gps = table.rows
    assert uniform.rollouts_to_target == Crossing(cost=12_800, censored=False)
    # gps: means of three are .287, .36 (just short in floats or not), .407, .43
    assert gps.rollouts_to_target is not None
    assert gps.rollouts_to_target.cost in (7_680, 10_240)
    assert gps.cpu_s_to_target == Crossing(cost=gps.rollouts_to_target.cost / 2560 * 12, censored=False)
    assert worse.rollouts_to_target == Crossing(cost=12_800, censored=True)
    assert gps.pass_1_smoothed == pytest.approx(0.43)
    # weighted by groups: sum_i (ratio * i * 32 / i) / sum_i 32 / i over i = 1 .. 5
    assert uniform.useful_group_ratio == pytest.approx(0.1 * 5 / (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5))
    assert (gps.pool_probe_spearman, uniform.pool_probe_spearman) == (0.5, None)
    assert uniform.num_unique_prompts is None


def test_the_cells_mark_censored_runs_and_ratios(runs: dict[str, Path]) -> None:
    table = comparison_table(runs, note="one seed, an illustration")
    cells = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in table.cells()}
    assert cells["worse"]["rollouts to target"] == "> 12,800"
    assert cells["uniform"]["rollouts to target"] == "12,800"
    assert cells["gps"]["rollouts to target"].endswith("×)")
    assert cells["uniform"]["Spearman pool probe"] == "-"
    assert cells["gps"]["Spearman pool probe"] == "0.50"
    assert table.caption == "target 36.0 %: mean of uniform's last three evaluations; one seed, an illustration"


@pytest.mark.parametrize("num_runs", [2, 4])
def test_the_terminal_shows_every_cell(runs: dict[str, Path], num_runs: int) -> None:
    named = dict(list((runs | {"[red]odd[/red]": runs["gps"]}).items())[-num_runs:])
    table = comparison_table(named, baseline="gps")
    stream = io.StringIO()
    print_comparison(table, Console(file=stream, width=200))
    text = stream.getvalue()
    assert "\x1b" not in text
    for cell in [*COLUMNS, *(cell for row in table.cells() for cell in row)]:
        assert cell in text


def test_runs_without_evaluation_compare_to_dashes(bare_run: MakeRun) -> None:
    table = comparison_table({"a": bare_run("a", [{"step": 0}]), "b": bare_run("b", [])})
    assert table.baseline == "a"
    assert table.target is None
    assert all(set(row[1:]) == {"-"} for row in table.cells())


def test_an_unknown_baseline_is_named(runs: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"one of the runs \(worse, uniform, gps\), got 'mopps'"):
        comparison_table(runs, baseline="mopps")
    with pytest.raises(DataError, match="at least one run"):
        comparison_table({})


def test_names_tell_folders_apart(tmp_path: Path) -> None:
    a, b, c = tmp_path / "x" / "gps", tmp_path / "y" / "gps", tmp_path / "y" / "uniform"
    assert named_runs([b, c]) == {"gps": b, "uniform": c}
    assert named_runs([a, b, c]) == {"x/gps": a, "y/gps": b, "y/uniform": c}
    with pytest.raises(DataError, match="one of them twice"):
        named_runs([a, a])


def test_the_page_overlays_the_runs(bare_run: MakeRun, gps_run: Path, tmp_path: Path) -> None:
    named = {"uniform": bare_run("uniform", rows(UNIFORM, 0.1, 10)), "<gps>": gps_run}
    html = write_comparison(named, tmp_path / "page.html").read_text()
    page = Page(html)
    assert [r for r in page.references if not r.startswith(OWN)] == []
    assert len(page.ids) == len(set(page.ids))
    for part in ("one seed, an illustration", "<gps>", "target", "Difficulty: <gps>", "<gps>: not finished"):
        assert part in page.text
    assert html.count('aria-label="pass@1 against') == 5
    assert html.count('aria-label="final pass@1') == 1


def test_the_entry_point_writes_one_or_compares_several(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(runs["gps"])]) == 0
    assert (runs["gps"] / "report.html").is_file()
    assert main([str(runs["uniform"]), str(runs["gps"])]) == 0
    assert 'href="gps/report.html"' in (tmp_path / "comparison.html").read_text()
    assert main([str(runs["uniform"]), str(runs["gps"]), "--dry-run", "--out", str(tmp_path / "no.html")]) == 0
    assert not (tmp_path / "no.html").exists()
    assert main([f"run.directory={runs['worse']}"]) == 0
    assert (runs["worse"] / "report.html").is_file()
    assert "rollouts to target" in capsys.readouterr().out
