import json
from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.config import EmbeddedModelConfig
from gps_ray.learning.algorithms import ALGORITHMS
from gps_ray.model import make_embedded_model
from gps_ray.tasks.countdown import Countdown
from jobs import bench


def test_updates_are_measured_by_micro_batch_and_compute_the_same(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    small = ["--shape", "small", "--dtype", "float32", "--num-prompts", "2", "--prompt-tokens", "6"]
    sizes = ["--response-tokens", "10", "--microbatch-tokens", "64", "512", "--repeats", "1"]
    assert bench.main(["gpu_update", *small, *sizes, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["microbatch_tokens"] for row in rows] == [64, 512]
    assert all(row["response_tokens_per_s"] > 0 for row in rows)
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], abs=1e-6)


def test_every_loss_makes_an_update_of_sampled_rollouts(tmp_path: Path) -> None:
    make_embedded_model(EmbeddedModelConfig(num_layers=1), Countdown().vocabulary(), tmp_path / "model")
    out = tmp_path / "result.json"
    arguments = ["--model", str(tmp_path / "model"), "--num-prompts", "2", "--response-tokens", "4"]
    assert bench.main(["gpu_update", "--losses", *arguments, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["loss"] for row in rows] == list(ALGORITHMS)
    assert all(row["cpu float32 grad norm"] > 0 for row in rows)


def test_losses_need_a_policy() -> None:
    with pytest.raises(ConfigError, match="--model"):
        bench.main(["gpu_update", "--losses"])
