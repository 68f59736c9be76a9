"""The benchmarks of the loop's plumbing: they run, and their figures close. Speed itself is no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_job

pytestmark = pytest.mark.ray


def _bench(tmp_path: Path, *arguments: str) -> Any:
    out = tmp_path / "result.json"
    done = run_job("bench", *arguments, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())["rows"]


def test_rollouts_reach_the_learner_without_a_copy(tmp_path: Path) -> None:
    rows = _bench(tmp_path, "exchange", "--rows", "1000", "--response-tokens", "16", "--repeats", "2")
    assert rows[0]["zero_copy"]
    assert rows[0]["bytes_copied"] == 0
    assert [turn["num_rows"] for turn in rows[0]["turns"]] == [1000, 1000]


def test_running_ahead_hides_the_update(tmp_path: Path) -> None:
    # Latencies far above what the machine's own noise adds.
    sizes = ("--rollout-s", "1.5", "--update-s", "1.5", "--num-steps", "6", "--repeats", "1")
    in_step, ahead = _bench(tmp_path, "step", *sizes, "--selector", "uniform")
    assert (in_step["policy_lag"], ahead["policy_lag"]) == (0, 1)
    assert in_step["step_s"] >= 3.0
    # Not a matter of speed: a loop that waited for its update would need 3 s.
    assert ahead["step_s"] < in_step["step_s"]


def test_workers_that_sleep_keep_driver_and_selector_busy(tmp_path: Path) -> None:
    sizes = ("--workers", "2", "4", "--chunk-s", "0.1", "--num-prompts", "500", "--num-steps", "3")
    rows = _bench(tmp_path, "scaling", *sizes)
    assert [row["workers"] for row in rows] == [2, 4]
    for row in rows:
        assert row["groups_per_s"] > 0
        assert 0 < row["selector_share"] < 1
        assert len(row["step_s_each"]) == 3
