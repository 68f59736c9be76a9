from pathlib import Path

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.config import TrainConfig, load_config


def _refused(*overrides: str, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_valid() -> None:
    assert load_config(TrainConfig, None).rollout.group_size == 8


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run: {num_steps: 5, seed: 3}\nselection: {selector: uniform}\n")
    config = load_config(TrainConfig, file, ["run.num_steps=7", "selection.candidate_multiple=null"])
    assert (config.run.num_steps, config.run.seed) == (7, 3)
    assert config.selection.selector == "uniform"
    assert config.selection.candidate_multiple is None


def test_config_is_frozen() -> None:
    config = load_config(TrainConfig, None)
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.group_sise=8", ["rollout.group_sise", "unknown key", "group_size"]),
        ("rolout.group_size=8", ["rolout", "unknown key", "rollout"]),
        ("run.num_steps=0", ["run.num_steps", "greater than or equal to 1", "got 0"]),
        ("run.num_steps=many", ["run.num_steps", "'many'"]),
        ("rollout.group_size=1", ["rollout.group_size", "at least 2", "got 1"]),
        ("selection.num_prompts=5000", ["selection.num_prompts", "5000", "4000", "lower"]),
        ("evaluation.num_probe_prompts=9999", ["evaluation.num_probe_prompts", "9999", "4000"]),
        ("run.seed", ["key=value", "run.seed"]),
        ("run.seed.x=1", ["run.seed"]),
    ],
)
def test_wrong_config_names_key_and_remedy(override: str, expected: list[str]) -> None:
    message = _refused(override)
    for part in expected:
        assert part in message


def test_pool_file_needs_an_evaluation_file() -> None:
    assert "data.evaluation_file" in _refused("data.pool_file=pool.parquet")


def test_a_value_is_not_a_section(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run: 3\n")
    assert "run is a value" in _refused("run.seed=1", file=file)


@pytest.mark.parametrize(("text", "expected"), [("- a\n", "mapping"), ("a: [", "not YAML")])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert expected in _refused(file=file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in _refused(file=tmp_path / "none.yaml")
