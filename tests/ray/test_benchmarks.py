"""The benchmarks that need processes: they run, and their figures close. Speed itself is no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError
from jobs import bench
from tests.processes import Head, run_job

pytestmark = pytest.mark.ray


def _bench(head: Head, tmp_path: Path, *arguments: str) -> Any:
    out = tmp_path / "result.json"
    done = run_job("bench", *arguments, "--out", str(out), head=head)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_a_pool_is_compared_with_as_many_bare_engines(head: Head, tmp_path: Path) -> None:
    small = ["--num-sequences", "16", "--group-size", "2", "--prompts-per-chunk", "2", "--response-tokens", "4"]
    result = _bench(head, tmp_path, "rollout", "--num-workers", "2", *small, "--repeats", "2")
    bare, pool = result["rows"]
    assert (bare["arm"], pool["arm"]) == ("2 bare engines", "pool of 2")
    assert bare["ratio"] == bare["cpu_ratio"] == 1
    assert pool["ratio"] == pytest.approx(pool["tokens_per_s"] / bare["tokens_per_s"], rel=1e-2)
    assert len(bare["tokens_per_s_by_turn"]) == len(pool["tokens_per_s_by_turn"]) == 2


@pytest.mark.slow
def test_weights_are_published_and_loaded(head: Head, tmp_path: Path) -> None:
    # Two workers: gloo sends to each of them.
    sizes = ["--sizes", "64x1", "128x2", "--num-workers", "2", "--repeats", "2"]
    rows = _bench(head, tmp_path, "weights", *sizes)["rows"]
    assert {row["engine"] for row in rows} == {"torch"}
    assert [(row["model"], row["transport"]) for row in rows] == [
        (model, transport) for model in ("64x1", "128x2") for transport in ("object store", "gloo")
    ]
    assert rows[3]["megabytes"] == rows[2]["megabytes"] > rows[1]["megabytes"] == rows[0]["megabytes"] > 0
    for row in rows:
        assert row.keys() == rows[0].keys()
        assert row["publish_s"] > 0
        assert row["load_s"] > 0
        assert len(row["publish_s_by_turn"]) == len(row["load_s_by_turn"]) == 2


def test_selection_times_the_phases_of_predictors(tmp_path: Path) -> None:
    """Needs no process, but seconds: the predictor of the paper's size is one of them."""
    small = ["--num-candidates", "400", "--batch", "12", "--dim", "16", "--repeats", "1", "--naive-every", "0"]
    assert bench.main(["selection", *small, "--out", str(tmp_path / "result.json")]) == 0
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    phases = [row for row in rows if "same_picks" not in row]
    assert len(phases) == 9
    assert all(row["ms"] > 0 for row in phases)


def test_rollouts_reach_the_learner_without_a_copy(head: Head, tmp_path: Path) -> None:
    rows = _bench(head, tmp_path, "exchange", "--rows", "1000", "--response-tokens", "16", "--repeats", "2")["rows"]
    assert rows[0]["zero_copy"]
    assert rows[0]["bytes_copied"] == 0
    assert [turn["num_rows"] for turn in rows[0]["turns"]] == [1000, 1000]


@pytest.mark.slow
def test_running_ahead_hides_the_update(head: Head, tmp_path: Path) -> None:
    # Latencies far above what the machine's own noise adds.
    sizes = ("--rollout-s", "1.5", "--update-s", "1.5", "--num-steps", "6", "--repeats", "1")
    in_step, ahead = _bench(head, tmp_path, "step", *sizes, "--selector", "uniform")["rows"]
    assert (in_step["policy_lag"], ahead["policy_lag"]) == (0, 1)
    assert in_step["step_s"] >= 3.0
    # Not a matter of speed: a loop that waited for its update would need 3 s.
    assert ahead["step_s"] < in_step["step_s"]


@pytest.mark.slow
def test_workers_that_sleep_keep_driver_and_selector_busy(head: Head, tmp_path: Path) -> None:
    sizes = ("--workers", "2", "4", "--chunk-s", "0.1", "--num-prompts", "500", "--num-steps", "3")
    rows = _bench(head, tmp_path, "scaling", *sizes)["rows"]
    assert [row["workers"] for row in rows] == [2, 4]
    for row in rows:
        assert row["groups_per_s"] > 0
        assert 0 < row["selector_share"] < 1
        assert len(row["step_s_each"]) == 3


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["rollout", "--engine", "vllm"], "--num-workers"),
        (["weights", "--sizes", "100x2"], "--sizes"),
        (["weights", "--sizes", "64"], "--sizes"),
    ],
)
def test_arguments_that_cannot_be_measured_are_refused(arguments: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        bench.main(arguments)
