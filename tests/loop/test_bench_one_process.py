import json
from pathlib import Path

import pytest
import yaml

from gps_ray.base.errors import ConfigError
from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import make_embedded_model
from gps_ray.tasks.countdown import Countdown
from jobs import bench


def test_selectors_are_compared_seed_by_seed_within_the_time_limit(tmp_path: Path) -> None:
    make_embedded_model(EmbeddedModelConfig(num_layers=1), Countdown().vocabulary(), tmp_path / "model")
    config, out = tmp_path / "config.yaml", tmp_path / "result.json"
    countdown = {"num_pool_prompts": 64, "num_evaluation_prompts": 8, "num_heldout_probe_prompts": 8}
    config.write_text(
        yaml.safe_dump(
            {
                "run": {"num_steps": 1},
                "data": {"countdown": countdown},
                "model": {"path": str(tmp_path / "model")},
                "selection": {"num_prompts": 4, "features": {"cache_directory": str(tmp_path / "features")}},
                "evaluation": {"rollouts_per_prompt": 1, "num_probe_prompts": 0},
            }
        )
    )
    arguments = ["--config", str(config), "--seeds", "0,1,2", "--time-limit-s", "0.001", "--out", str(out)]
    assert bench.main(["one_process", *arguments]) == 0
    result = json.loads(out.read_text())
    # The first seed is run whatever it takes, and what is run is compared.
    assert [(row["selector"], row["seed"]) for row in result["rows"]] == [("uniform", 0), ("gps_fused", 0)]
    assert result["comparison"]["seeds"] == [0]
    assert set(result["comparison"]["arms"]) == {"uniform", "gps_fused"}


def test_a_policy_is_needed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {num_steps: 1}\n")
    with pytest.raises(ConfigError, match=r"model\.path"):
        bench.main(["one_process", "--config", str(tmp_path / "config.yaml")])
