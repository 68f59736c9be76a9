"""The tables of the docs are what the files in docs/results say, number by number, and those files hold little else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[3] / "docs"
MAX_LINES = 6000
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+)")
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """``before``: the text of the page above it."""

    before: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def results(self) -> str:
        """The results file that was named last above the table."""
        return str(re.findall(r"results/([\w*]+)\.json", self.before)[-1])

    def cells(self) -> Iterator[tuple[Sequence[str], str, str]]:
        """(row, title, cell) of all that is shown."""
        for row in self.rows:
            for title, cell in zip(self.columns, row, strict=True):
                if NUMBER.search(cell):
                    yield row, title, cell


def tables(page: str) -> list[Table]:
    found, lines = [], (DOCS / page).read_text().split("\n")
    for i, line in enumerate(lines):
        if line.startswith("|--"):
            end = next(j for j in range(i, len(lines) + 1) if j == len(lines) or not lines[j].startswith("|"))
            columns, *rows = [_split(row) for row in (lines[i - 1], *lines[i + 1 : end])]
            found.append(Table(before="\n".join(lines[: i - 1]), columns=columns, rows=rows))
    return found


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def read(name: str) -> Any:
    return json.loads((DOCS / "results" / f"{name}.json").read_text())


def agree(cell: str, values: Sequence[float], scale: float = 1.0) -> None:
    """Every number of the cell is that value, rounded to the digits shown; bounds may be left out of a cell."""
    shown = NUMBER.findall(cell)
    assert 1 <= len(shown) <= len(values), (cell, values)
    for text, value in zip(shown, values, strict=False):
        digits = len(text.partition(".")[2])
        # Values are stored with six significant digits.
        reach = 0.5 * 10.0**-digits + 1e-5 * abs(scale * value)
        assert abs(float(text.replace(",", "")) - scale * value) <= reach, (cell, values)


def interval(figure: Json) -> list[float]:
    return [figure["mean"], figure["low"], figure["high"]]


def plus_minus(figure: Json) -> list[float]:
    return [figure["mean"], (figure["high"] - figure["low"]) / 2]


# Title of a column of the comparisons -> where the figure stands in an arm, and what it is shown times.
ARM_COLUMNS: dict[str, tuple[Callable[[Json], Json], float]] = {
    "accuracy": (lambda arm: arm["figures"]["accuracy"], 100),
    "difference, equal rollouts": (lambda arm: arm["difference_to_baseline"]["accuracy_at_equal_rollouts"], 100),
    "difference, equal CPU-s": (lambda arm: arm["difference_to_baseline"]["accuracy_at_equal_cpu_s"], 100),
    "rollouts to target": (lambda arm: arm["ratio_to_baseline"]["rollouts_to_target"], 1),
    "tokens to target": (lambda arm: arm["ratio_to_baseline"]["tokens_to_target"], 1),
    "CPU-s to target": (lambda arm: arm["ratio_to_baseline"]["cpu_s_to_target"], 1),
    "useful, chosen": (lambda arm: arm["figures"]["useful_group_ratio_chosen"], 100),
    "useful, all": (lambda arm: arm["figures"]["useful_group_ratio"], 100),
    "unique prompts": (lambda arm: arm["figures"]["num_unique_prompts"], 1),
    "Spearman pool probe": (lambda arm: arm["figures"]["pool_probe_spearman"], 1),
    "ECE": (lambda arm: arm["figures"]["pool_probe_ece"], 1),
}


def check_arm(title: str, cell: str, arm: Json) -> int:
    """1 where the column is a figure of an arm."""
    title = title.replace(" to uniform", "")
    if title == "Spearman pool probe: all, seen, unseen":
        agree(cell, [arm["figures"][f"pool_probe_spearman{part}"]["mean"] for part in ("", "_seen", "_unseen")])
    elif title in ARM_COLUMNS:
        find, scale = ARM_COLUMNS[title]
        figure = find(arm)
        never = re.search(r"\((\d+) never\)", cell)
        assert int(never[1] if never else 0) == len(figure.get("never", [])), cell
        agree(cell.replace(never[0], "") if never else cell, interval(figure), scale)
    else:
        return 0
    return 1


def test_the_results_are_short_and_speak_todays_words() -> None:
    files = {path: path.read_text() for path in (DOCS / "results").rglob("*.json")}
    assert sum(text.count("\n") for text in files.values()) <= MAX_LINES
    for path, text in files.items():
        assert text.endswith("}\n"), path
        assert not re.search(r"effective|zero_variance|\"selectors\"", text), path


def test_the_comparisons() -> None:
    num_checked, names = 0, set()
    for table in tables("comparison.md"):
        if not {"accuracy", "rollouts to target"} <= set(table.columns):
            continue
        names.add(table.results)
        if table.results == "diversity_*":
            tasks = [f"diversity_{task}" for task in ("arithmetic", "heterogeneous", "homogeneous")]
            arms = [read(task)["arms"][arm] for task in tasks for arm in ("gps_fused", "gps_fused_diverse")]
        else:
            arms = list(read(table.results)["arms"].values())
        assert len(table.rows) == len(arms), table.results
        arm_of = {id(row): arm for row, arm in zip(table.rows, arms, strict=True)}
        num_checked += sum(check_arm(title, cell, arm_of[id(row)]) for row, title, cell in table.cells())
    assert len(names) == 9
    assert num_checked > 300


@pytest.mark.parametrize(("results", "first"), [("compare_heterogeneous", "two"), ("compare_arithmetic", "chain-2")])
def test_accuracy_by_level(results: str, first: str) -> None:
    (table,) = [table for table in tables("comparison.md") if f"| {first} |" in f"| {' | '.join(table.columns)} |"]
    arms, num_checked = read(results)["arms"], 0
    for row, title, cell in table.cells():
        figures = arms.get(row[0].split(" ")[0], {}).get("figures", {})
        if figures and title == "accuracy: two, three, four numbers":
            agree(cell, [figures[f"accuracy_of_CD-{level}"]["mean"] for level in (2, 3, 4)])
            num_checked += 1
        elif f"accuracy_of_{title}" in figures:
            agree(cell, interval(figures[f"accuracy_of_{title}"]))
            num_checked += 1
    assert num_checked >= 6


ALLOCATION_COLUMNS = {
    "pass rate, %": ("pass_rate", 100),
    "points over equal": ("points_gained", 1),
    "samples saved at equal pass rate, %": ("samples_saved", 100),
    "samples saved, %": ("samples_saved", 100),
}


def test_the_allocation() -> None:
    num_checked = 0
    for table in tables("allocation.md"):
        budgets = read(table.results)["budgets"]
        for row, title, cell in table.cells():
            if title in ALLOCATION_COLUMNS:
                quantity, scale = ALLOCATION_COLUMNS[title]
                agree(cell, interval(budgets[row[0]][row[1]][quantity]), scale)
                num_checked += 1
    assert num_checked > 100


def test_the_wins_and_losses() -> None:
    table, num_checked = tables("which_selector.md")[-1], 0
    results = {
        "heterogeneous Countdown": "compare_heterogeneous",
        "homogeneous Countdown": "compare_homogeneous",
        "arithmetic": "compare_arithmetic",
        "SmolLM2, three seeds": "compare_smollm2",
    }
    picked = {**read("replay")["selected_5"]["result"], **read("replay")["rivals_5"]["result"]}
    for row, title, cell in table.cells():
        name = re.findall(r"`(\w+)`", row[0])[0]
        if title in results:
            difference, scale = ARM_COLUMNS["difference, equal rollouts"]
            figure = interval(difference(read(results[title])["arms"][name]))
            agree(cell, figure, scale)
            # In bold: the interval lies on one side of uniform's.
            assert cell.startswith("**") == (figure[1] > 0 or figure[2] < 0), (name, cell)
            num_checked += 1
        elif title == "useful in replay":
            agree(cell.split(",")[0], [picked[name]["useful_group_ratio"]["mean"]])
            num_checked += 1
    assert num_checked > 20


REPLAY_COLUMNS: dict[str, Sequence[str]] = {
    "Spearman early \\| late": ("spearman_early", "spearman_late"),
    "minus beta_mean, early \\| late": ("spearman_early_minus_beta_mean", "spearman_late_minus_beta_mean"),
    "minus without states, early \\| late": (
        "spearman_early_minus_without_states",
        "spearman_late_minus_without_states",
    ),
    "seen": ("spearman_seen",),
    "unseen": ("spearman_unseen",),
    "ECE": ("ece",),
    "AUC of useful groups": ("useful_auc",),
    "CPU-s per step": ("seconds_per_step",),
    "useful": ("useful_group_ratio",),
    "unique prompts": ("num_unique_prompts",),
    "swap test, mean abs. \\| signed": ("swap_test", "swap_test_signed"),
    "useful, unique": ("useful_group_ratio", "num_unique_prompts"),
    "Spearman, 512 labels": ("static_spearman_512",),
    "2,048": ("static_spearman_2048",),
    "8,192": ("static_spearman_8192",),
    "Spearman, 128 labels": ("static_spearman_128",),
    "256 labels": ("static_spearman_256",),
    "464 labels": ("static_spearman_464",),
    "ECE at 8,192": ("static_ece_8192",),
}


def test_the_replay() -> None:
    runs, num_checked = read("replay"), 0
    for table in tables("replay.md"):
        about = re.findall(r"\(`(\w+)`\)", table.before)[-1:]  # where no column names the run
        for row, title, cell in table.cells():
            if title not in REPLAY_COLUMNS:
                continue
            named = re.findall(r"`(\w+)`", row[-1] if table.columns[-1] == "run" else row[0])
            (run,) = [name for name in named if name in runs] or about
            text = " ".join(row[:2]).replace("`", " ").replace(",", " ").split()
            selector = next((word for word in text if word in runs[run]["result"]), "gps_fused")
            paired = "_minus_without_states" if row[0].startswith("difference") else ""
            figures = [runs[run]["result"][selector][f"{name}{paired}"] for name in REPLAY_COLUMNS[title]]
            agree(
                cell,
                [value for figure in figures for value in (plus_minus(figure) if "±" in cell else [figure["mean"]])],
            )
            num_checked += 1
    assert num_checked > 150


def test_the_benchmarks() -> None:
    by_header = {table.columns[0]: table for table in tables("benchmarks.md")}
    measured_rows = [row for name in ("40k", "1m") for row in read(f"bench/selection_{name}")["rows"]]
    selection = [row for row in measured_rows if row["case"].startswith("means")]
    keys = {"ms": "ms", "incremental, times": "incremental_ratio", "naive, times": "naive_ratio"}
    table = by_header["candidates, means"]
    for row, measured in zip(table.rows, selection, strict=True):
        shown = dict(zip(table.columns, row, strict=True))
        assert measured["case"].endswith(f"lambda 0{shown['lambda']}")
        for title, key in (keys | {"full passes": "full_passes"}).items():
            agree(shown[title], [measured[key]])
    lags = read("policy_lag")["lags"]
    for lag, accuracy, *at_step in by_header["lag"].rows:
        agree(accuracy, interval(lags[lag]["accuracy"]), 100)
        for cell, step in zip(at_step, (30, 60), strict=True):
            agree(cell, interval(lags[lag][f"accuracy_at_step_{step}"]), 100)
    busy = by_header["engines"]
    for row, measured in zip(busy.rows, read("bench/long_tail")["rows"], strict=True):
        assert row[:2] == [str(measured["engines"]), measured["arm"]]
        keys = ("seconds", "share", "of_limit", "step_s")
        for cell, key in zip(row[2:], keys, strict=True):
            if cell:
                agree(cell, [measured[key]])
    engines = read("engines_30")["runs"]
    for engine, *accuracies in by_header["pass@1 in percent after step"].rows:
        for cell, value in zip(accuracies, engines[engine]["val/pass@1"], strict=True):
            agree(cell.partition("[")[0], [value], 100)
