import json
from pathlib import Path
from typing import Any

import pytest

from gps_ray.base.errors import ConfigError
from gps_ray.config import CountdownConfig, DataConfig, EmbeddedModelConfig, WarmStartConfig
from gps_ray.learning.warm_start import MANIFEST, build_warm_start, find_warm_start, warm_start_folder
from gps_ray.model import load_model, load_tokenizer

DATA = DataConfig(countdown=CountdownConfig(num_pool_prompts=20, num_evaluation_prompts=5, num_heldout_probe_prompts=5))
EMBEDDED = EmbeddedModelConfig(hidden_size=32, num_layers=1, num_heads=1, intermediate_size=32)


def _config(directory: Path, **changes: Any) -> WarmStartConfig:
    values = {"num_examples": 64, "num_steps": 2, "batch_size": 8, "num_threads": 1, "cache_directory": directory}
    return WarmStartConfig.model_validate(values | changes)


def test_it_is_made_once_and_then_found(tmp_path: Path) -> None:
    config = _config(tmp_path)
    steps: list[int] = []
    assert find_warm_start(DATA, EMBEDDED, config) is None
    folder = build_warm_start(DATA, EMBEDDED, config, lambda step, *_: steps.append(step))
    assert steps == [1, 2]
    assert folder == warm_start_folder(DATA, EMBEDDED, config) == find_warm_start(DATA, EMBEDDED, config)
    assert build_warm_start(DATA, EMBEDDED, config, lambda step, *_: steps.append(step)) == folder
    assert steps == [1, 2]
    # Nothing half-made stays beside it.
    assert list(tmp_path.iterdir()) == [folder]
    assert load_model(folder).config.hidden_size == 32
    assert load_tokenizer(folder).encode("7 + target") == load_tokenizer(folder).encode("7 + target answer")[:-1]
    assert json.loads((folder / MANIFEST).read_text())["settings"]["warm_start"]["num_steps"] == 2


def test_the_name_follows_everything_that_determines_the_weights(tmp_path: Path) -> None:
    config = _config(tmp_path)
    name = warm_start_folder(DATA, EMBEDDED, config).name
    others = [
        warm_start_folder(DATA, EMBEDDED, _config(tmp_path, seed=1)),
        warm_start_folder(DATA, EMBEDDED, _config(tmp_path, num_threads=2)),
        warm_start_folder(DATA, EmbeddedModelConfig(hidden_size=64), config),
        warm_start_folder(DataConfig(countdown=CountdownConfig(seed=1)), EMBEDDED, config),
    ]
    assert len({name, *(other.name for other in others)}) == 5
    files = [tmp_path / name for name in ("one.parquet", "other.parquet", "same.parquet")]
    for file, content in zip(files, ("a", "b", "a"), strict=True):
        file.write_text(content)
    one, other, same = (
        warm_start_folder(DataConfig(pool_file=file, evaluation_file=file), EMBEDDED, config).name for file in files
    )
    assert one == same != other
    moved = _config(tmp_path / "elsewhere", deadline_s=5)
    assert warm_start_folder(DATA, EMBEDDED, moved) == tmp_path / "elsewhere" / name


@pytest.mark.parametrize("damage", ["no manifest", "short file", "no file", "not json"])
def test_a_folder_that_is_not_whole_does_not_count_and_is_replaced(tmp_path: Path, damage: str) -> None:
    config = _config(tmp_path)
    folder = build_warm_start(DATA, EMBEDDED, config)
    whole = (folder / "model.safetensors").read_bytes()
    if damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "short file":
        (folder / "model.safetensors").write_bytes(whole[:-1])
    elif damage == "no file":
        (folder / "model.safetensors").unlink()
    else:
        (folder / MANIFEST).write_text("{")
    assert find_warm_start(DATA, EMBEDDED, config) is None
    assert build_warm_start(DATA, EMBEDDED, config) == folder
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_task_without_examples_of_its_own_is_refused(tmp_path: Path) -> None:
    data = DataConfig(task="tests.loop.test_warm_start_model:OnlyVerifies")
    with pytest.raises(ConfigError, match=r"data\.task.*set model\.path"):
        build_warm_start(data, EMBEDDED, _config(tmp_path))


class OnlyVerifies:
    name = "only_verifies"

    def verify(self, prompt: object, response: str) -> tuple[float, int]:
        return 0.0, 0
