"""The benchmarks that need processes: they run, and their figures close. Speed itself is no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gps_ray.errors import ConfigError
from jobs import bench
from tests.processes import run_job

pytestmark = pytest.mark.ray


def _bench(tmp_path: Path, *arguments: str) -> Any:
    out = tmp_path / "result.json"
    done = run_job("bench", *arguments, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_a_pool_is_compared_with_as_many_bare_engines(tmp_path: Path) -> None:
    small = ["--num-sequences", "16", "--group-size", "2", "--prompts-per-chunk", "2", "--response-tokens", "4"]
    result = _bench(tmp_path, "rollout", "--num-workers", "2", *small, "--repeats", "2")
    bare, pool = result["rows"]
    assert (bare["contestant"], pool["contestant"]) == ("2 bare engines", "pool of 2")
    assert bare["ratio"] == bare["cpu_ratio"] == 1
    assert pool["ratio"] == pytest.approx(pool["tokens_per_s"] / bare["tokens_per_s"], rel=1e-2)
    assert len(bare["tokens_per_s_by_turn"]) == len(pool["tokens_per_s_by_turn"]) == 2


def test_weights_are_published_and_loaded(tmp_path: Path) -> None:
    sizes = ["--sizes", "64x1", "128x2", "--num-workers", "1", "--repeats", "2"]
    rows = _bench(tmp_path, "weights", *sizes)["rows"]
    assert [(row["model"], row["engine"]) for row in rows] == [("64x1", "torch"), ("128x2", "torch")]
    assert rows[1]["megabytes"] > rows[0]["megabytes"] > 0
    for row in rows:
        assert row["publish_s"] > 0
        assert row["load_s"] > 0
        assert len(row["load_s_by_turn"]) == 2


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
