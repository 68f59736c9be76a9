"""What the figures draw, as numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.types import SlotKind
from gps_ray.run.outcomes import read_outcomes
from gps_ray.study.report.charts import label_text, share_top, trailing_mean
from gps_ray.study.report.predictor_figures import calibration_bins, rate_shares
from gps_ray.study.report.run_data import ProbeTable, read_run
from gps_ray.study.report.run_figures import level_cells, step_windows, unique_prompts
from gps_ray.study.report.svg import panel


def test_groups_are_those_of_the_outcome_files(gps_run: Path) -> None:
    run, table = read_run(gps_run), read_outcomes(gps_run / "outcomes")
    assert run.groups.prompt_id.tolist() == table["prompt_id"].to_pylist()
    assert run.groups.step.tolist() == table["step"].to_pylist()
    statuses = table["status"].to_pylist()
    assert run.groups.num_right.tolist() == [row.count(1) for row in statuses]
    assert run.groups.num_tried.tolist() == [len(row) - row.count(2) for row in statuses]
    kinds = np.array(table["slot_kind"].to_pylist())
    assert (run.groups.random_slot == (kinds == SlotKind.RANDOM)).all()
    assert run.num_pool_prompts == 120
    assert len(run.notes) == 0


def test_series_take_the_costs_of_their_own_line(bare_run: Callable[..., Path]) -> None:
    rows = [
        {"step": 0, "val/pass@1": 0.1},
        {"step": 1, "cost/num_rollouts": 256},
        {"step": 2, "cost/num_rollouts": 512, "val/pass@1": 0.3},
    ]
    run = read_run(bare_run("run", rows))
    x, y = run.series("val/pass@1", "cost/num_rollouts")
    assert (x.tolist(), y.tolist()) == ([0.0, 512.0], [0.1, 0.3])
    assert run.series("val/pass@1", "no such metric")[0].tolist() == []
    assert (run.last("val/pass@1"), run.last("no such metric")) == (0.3, None)
    assert (run.num_steps_done, run.num_steps_planned) == (2, 40)


def test_level_cells_add_up(gps_run: Path) -> None:
    run = read_run(gps_run)
    levels, windows, rate, share = level_cells(run)
    assert levels == sorted(set(run.groups.level))
    assert windows == [str(step) for step in range(1, 13)]
    assert np.nansum(share, axis=0) == pytest.approx(np.ones(12))
    here = (run.groups.level == levels[1]) & (run.groups.step == 3)
    assert rate[1, 2] == pytest.approx(run.groups.num_right[here].sum() / run.groups.num_tried[here].sum())


def test_unique_prompts_by_step(gps_run: Path) -> None:
    groups = read_run(gps_run).groups
    made, unique = unique_prompts(read_run(gps_run))
    for i, step in enumerate(np.unique(groups.step)):
        until = groups.step <= step
        assert (made[i], unique[i]) == (until.sum(), len(set(groups.prompt_id[until])))


def test_step_windows() -> None:
    window, labels = step_windows(np.array([1, 2, 3, 4, 5, 10]), 4)
    assert (window.tolist(), labels) == ([0, 0, 0, 1, 1, 3], ["1–3", "4–6", "7–9", "10–10"])
    assert step_windows(np.array([7, 8]), 4)[1] == ["7", "8"]
    assert step_windows(np.zeros(0, int))[1] == []


def test_trailing_mean_and_axis_top() -> None:
    assert trailing_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2) == pytest.approx([1.0, 2.0, 4.0, 6.0])
    assert share_top([np.array([0.31]), np.zeros(0)]) == pytest.approx(0.4)
    assert share_top([np.array([0.97])]) == 1.02
    assert share_top([np.zeros(3)]) == 0.1


def test_calibration_bins_by_hand() -> None:
    predicted = np.array([0.02, 0.08, 0.55, 1.0])
    right = np.array([0, 2, 4, 8])
    table = ProbeTable(
        step=np.zeros(4, int),
        probe=np.full(4, "pool_probe", object),
        level=np.full(4, "", object),
        num_right=right,
        num_tried=np.full(4, 8),
        seen=np.ones(4, bool),
        predicted_mean=predicted,
    )
    mean, realised, half, count = calibration_bins(table)
    assert mean == pytest.approx([0.05, 0.55, 1.0])
    assert realised == pytest.approx([0.125, 0.5, 1.0])
    assert half == pytest.approx([1.96 * np.std([0, 0.25], ddof=1) / np.sqrt(2), 0, 0])
    assert count.tolist() == [2, 1, 1]


def test_rate_shares_by_hand() -> None:
    steps, cells = rate_shares(np.array([0, 0, 0, 30, 30, 60]), np.array([0.0, 0.05, 1.0, 0.5, np.nan, np.nan]))
    assert steps.tolist() == [0, 30, 60]
    assert cells[[0, 9], 0] == pytest.approx([2 / 3, 1 / 3])
    assert cells[5, 1] == 1.0
    assert np.isnan(cells[:, 2]).all()


def test_hostile_labels_are_drawn_as_text() -> None:
    label = label_text("a <b> & $x_1 \x00\u202e\ud800 中文 " + "z" * 40)
    with panel('a <description> "quoted"') as drawn:
        axes = drawn.axes()
        axes.plot([0, 1], [0, 1], label=label)
        axes.legend()
    assert "a &lt;b&gt; &amp; $x_1" in drawn.svg
    assert 'aria-label="a &lt;description&gt; &#34;quoted&#34;"' in drawn.svg
    assert "…" in drawn.svg
    assert not set(drawn.svg) & {"\x00", "\u202e", "\ud800"}
