import json
from pathlib import Path

import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.run.identity import Identity, code_version, model_identity, weights_identity


def _model(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"hidden_size": 8, "transformers_version": "5.0"}))
    (directory / "model.safetensors").write_bytes(b"head" + bytes(100_000))
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_a_model_is_known_by_its_config_and_its_weights_shapes(tmp_path: Path) -> None:
    one = model_identity(_model(tmp_path / "one"))
    other = _model(tmp_path / "other")
    assert model_identity(other) == one  # wherever it lies
    (other / "config.json").write_text(json.dumps({"transformers_version": "6.0", "hidden_size": 8}))
    (other / "README.md").write_text("of no matter")
    assert model_identity(other) == one
    seen = {one}
    for name, content in (
        ("config.json", b'{"hidden_size": 9}'),
        ("model.safetensors", b"Head" + bytes(100_000)),
        ("model.safetensors", b"Head" + bytes(100_001)),
        ("tokenizer.json", b"{ }"),
    ):
        (other / name).write_bytes(content)
        assert model_identity(other) not in seen
        seen.add(model_identity(other))
    assert model_identity(None) == ""


def test_a_warm_start_is_known_by_every_byte_of_its_weights(tmp_path: Path) -> None:
    one, other = _model(tmp_path / "one"), _model(tmp_path / "other")
    assert weights_identity(other) == weights_identity(one)
    (other / "model.safetensors").write_bytes(b"head" + bytes(99_999) + b"1")
    assert model_identity(other) == model_identity(one)
    made_with, here = (Identity(warm_start=weights_identity(folder)) for folder in (one, other))
    assert made_with.notes_against(made_with) == []
    assert here.notes_against(Identity()) == []  # a run of an earlier version does not know
    with pytest.raises(CheckpointError, match=r"warm_start\.cache_directory: .*bring the first one's folder here"):
        here.notes_against(made_with)


def test_code_is_a_commit_and_its_sources() -> None:
    commit, _, sources = code_version().partition("/")
    assert commit
    assert len(sources) == 12
    assert code_version() == code_version()
