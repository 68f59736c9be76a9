"""Several runs beside each other: the table's numbers by hand, the page, the entry point."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.study.paired import Crossing
from gps_ray.study.report import (
    Comparison,
    ComparisonSummary,
    named_runs,
    print_comparison,
    read_comparison,
    write_comparison,
)
from gps_ray.study.report.tables import caption, cells, columns
from jobs.report import main
from tests.loop.report.test_run_report import OWN, Page

MakeRun = Callable[[str, Sequence[dict[str, float]]], Path]
UNIFORM = [0.20, 0.26, 0.29, 0.35, 0.38, 0.35]
BETTER = [0.20, 0.30, 0.36, 0.42, 0.44, 0.43]
WORSE = [0.20, 0.20, 0.21, 0.22, 0.20, 0.21]


def rows(accuracy: Sequence[float], cpu_s: float) -> list[dict[str, float]]:
    """An evaluation every 10 steps of 256 rollouts."""
    return [
        {
            "step": 10 * i,
            "val/pass@1": value,
            "cost/num_rollouts": 2560 * i,
            "cost/cpu_s": cpu_s * i,
            "cost/num_tokens": 20480 * i,
        }
        for i, value in enumerate(accuracy)
    ]


@pytest.fixture
def runs(bare_run: MakeRun) -> dict[str, Path]:
    return {
        "worse": bare_run("worse", rows(WORSE, 10)),
        "uniform": bare_run("uniform", rows(UNIFORM, 10)),
        "gps": bare_run("gps", [*rows(BETTER, 12), {"step": 60, "predictor/pool_probe_spearman": 0.5}]),
    }


def alone(runs: dict[str, Path], baseline: str | None = None) -> Comparison:
    """One run per name, as jobs.report compares them."""
    return read_comparison({name: {0: path} for name, path in runs.items()}, baseline)


def by_column(summary: ComparisonSummary) -> dict[str, dict[str, str]]:
    titles = [column.title for column in columns(summary)]
    return {row[0]: dict(zip(titles, row, strict=True)) for row in cells(summary)}


def test_one_seed_by_hand(runs: dict[str, Path]) -> None:
    summary = alone(runs).summary
    assert summary.baseline == "uniform"
    assert summary.targets == pytest.approx([0.36])
    worse, uniform, gps = summary.arms
    assert uniform.cost_to_target["rollouts"].by_seed == (Crossing(cost=12_800, censored=False),)
    # gps: means of three are .287, .36 (just short in floats or not), .407, .43
    (rollouts,) = gps.cost_to_target["rollouts"].by_seed
    assert rollouts.cost in (7_680, 10_240)
    assert gps.cost_to_target["cpu_s"].by_seed == (Crossing(cost=rollouts.cost / 2560 * 12, censored=False),)
    assert worse.cost_to_target["rollouts"].by_seed == (Crossing(cost=12_800, censored=True),)
    assert gps.figures["accuracy"].by_seed == pytest.approx([0.43])
    assert gps.figures["pool_probe_spearman"].by_seed == (0.5,)
    assert not {"pool_probe_spearman", "num_unique_prompts", "useful_group_ratio"} & set(uniform.figures)


def test_one_seed_shows_what_was_paid_and_no_interval_over_seeds(runs: dict[str, Path]) -> None:
    summary = alone(runs).summary
    shown = by_column(summary)
    assert shown["worse"]["rollouts to target"] == "> 12,800"
    assert shown["uniform"]["rollouts to target"] == "12,800"
    assert shown["gps"]["rollouts to target"].endswith("×)")
    assert shown["uniform"]["Spearman pool probe"] == "-"
    assert shown["gps"]["Spearman pool probe"] == "0.50"
    assert not any("[" in cell for row in cells(summary) for cell in row)
    assert caption(summary) == (
        "target 36.0 %: pass@1 of uniform, mean of the last 3 evaluations; one seed, an illustration"
    )


@pytest.mark.parametrize(
    ("numbers", "title", "words"),
    [
        ((5, 5), "last 3 evaluations", "mean of the last 3 evaluations"),
        ((2, 2), "last 2 evaluations", "mean of the last 2 evaluations"),
        ((1, 1), "only evaluation", "its only evaluation"),
        ((5, 1), "last 3 evaluations (of all in a run with fewer)", "mean of the last 3 evaluations"),
    ],
)
def test_words_follow_the_number_of_evaluations(
    bare_run: MakeRun, tmp_path: Path, numbers: tuple[int, int], title: str, words: str
) -> None:
    named = {name: bare_run(name, rows(UNIFORM, 10)[:n]) for name, n in zip(("uniform", "gps"), numbers, strict=True)}
    comparison = alone(named)
    assert columns(comparison.summary)[3].title == title
    assert f"pass@1 of uniform, {words}" in caption(comparison.summary)
    text = Page(write_comparison(comparison, tmp_path / "page.html").read_text()).text
    assert ("fewer than 3 evaluations" in text) == (min(numbers) < 3)
    assert ("last 3 evaluations" in text) == (max(numbers) >= 3)


def test_the_newest_evaluation_has_its_interval_over_prompts(gps_run: Path) -> None:
    comparison = alone({"gps": gps_run})
    (shown,) = by_column(comparison.summary).values()
    newest = comparison.runs["gps"][0].metrics[-1]
    value, low, high = (100 * newest[f"val/pass@1{end}"] for end in ("", "/low", "/high"))
    assert shown["final pass@1"] == f"{value:.1f} % [{low:.1f}, {high:.1f}]"


@pytest.mark.parametrize("num_runs", [2, 4])
def test_the_terminal_shows_every_cell(runs: dict[str, Path], num_runs: int) -> None:
    named = dict(list((runs | {"[red]odd[/red]": runs["gps"]}).items())[-num_runs:])
    summary = alone(named, "gps").summary
    stream = io.StringIO()
    print_comparison(summary, Console(file=stream, width=200))
    text = stream.getvalue()
    assert "\x1b" not in text
    for cell in [*(column.title for column in columns(summary)), *(cell for row in cells(summary) for cell in row)]:
        assert cell in text


def test_runs_without_evaluation_compare_to_dashes(bare_run: MakeRun, tmp_path: Path) -> None:
    comparison = alone({"a": bare_run("a", [{"step": 0}]), "b": bare_run("b", [])})
    summary = comparison.summary
    assert (summary.baseline, summary.targets) == ("a", ())
    assert all(set(row[1:]) == {"-"} for row in cells(summary))
    assert "No evaluation yet" in write_comparison(comparison, tmp_path / "page.html").read_text()


def test_an_unknown_baseline_is_named(runs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"--baseline: expected one of worse, uniform, gps, got 'mopps'"):
        alone(runs, "mopps")
    with pytest.raises(DataError, match="at least one run"):
        alone({})


def test_names_tell_folders_apart(tmp_path: Path) -> None:
    a, b, c = tmp_path / "x" / "gps", tmp_path / "y" / "gps", tmp_path / "y" / "uniform"
    assert named_runs([b, c]) == {"gps": b, "uniform": c}
    assert named_runs([a, b, c]) == {"x/gps": a, "y/gps": b, "y/uniform": c}
    with pytest.raises(DataError, match="one of them twice"):
        named_runs([a, a])


def test_the_page_overlays_the_runs(bare_run: MakeRun, gps_run: Path, tmp_path: Path) -> None:
    named = {"uniform": bare_run("uniform", rows(UNIFORM, 10)), "<gps>": gps_run}
    html = write_comparison(alone(named), tmp_path / "page.html").read_text()
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
