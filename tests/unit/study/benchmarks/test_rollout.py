import json
from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError
from jobs import bench

SMALL = ["rollout", "--group-size", "2", "--response-tokens", "3", "--repeats", "2"]


def test_rollout_bench_compares_engines_with_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "rollout.json"
    assert bench.main([*SMALL, "--num-sequences", "4", "2", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [(row["num_sequences"], row["engine"]) for row in result["rows"]] == [
        (num, engine) for num in (4, 2) for engine in ("transformers.generate", "torch", "torch, generic step")
    ]
    for row in result["rows"]:
        assert len(row["tokens_per_s_by_turn"]) == 2
        assert row["tokens_per_s"] > 0
        assert row["ratio"] > 0
        if row["engine"] == "transformers.generate":
            assert row["ratio"] == row["cpu_ratio"] == 1
        else:
            assert row["max_logprob_difference"] <= row["difference_allowed"]
    assert "transformers.generate" in capsys.readouterr().out


def test_sequences_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="--num-sequences"):
        bench.main([*SMALL, "--num-sequences", "5"])
