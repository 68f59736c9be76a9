import json
from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError
from jobs import bench


def test_update_bench_compares_shared_prompts_with_copies(tmp_path: Path) -> None:
    out = tmp_path / "update.json"
    small = ["--num-prompts", "3", "--group-size", "4", "--repeats", "1", "--lengths", "9x4", "5x3"]
    assert bench.main(["update", *small, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["lengths"], row["prompts"]) for row in rows] == [
        (lengths, prompts) for lengths in ("9x4", "5x3") for prompts in ("a copy each", "shared")
    ]
    for row in rows:
        assert row["max_loss_difference"] < 1e-5
        assert row["cpu_s"] > 0
        assert (row["cpu_ratio"] == 1) == (row["prompts"] == "a copy each")


def test_lengths_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="--lengths: expected prompt x response tokens like 100x40, got 12"):
        bench.main(["update", "--lengths", "12"])
