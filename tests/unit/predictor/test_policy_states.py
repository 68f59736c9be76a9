"""A policy's own states: what a run reads at its start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.types import Prompt
from gps_ray.config import EmbeddedModelConfig, FeaturesConfig, SelectionConfig
from gps_ray.model import make_embedded_model
from gps_ray.predictor import policy_states
from gps_ray.predictor.policy_states import policy_reader
from gps_ray.predictor.prompt_features import build_prompt_table
from gps_ray.tasks.chat import DEFAULT_CHAT


def _model(directory: Path, seed: int = 0) -> Path:
    config = EmbeddedModelConfig(num_layers=2, hidden_size=32, num_heads=1, intermediate_size=64, seed=seed)
    make_embedded_model(config, [*map(str, range(101)), "+"], directory)
    return directory


def _prompts(count: int) -> list[Prompt]:
    return [
        Prompt(prompt_id=f"p{i}", task="arithmetic", level="", text=f"{i} + {i + 7}", answer="") for i in range(count)
    ]


def _features(tmp_path: Path) -> FeaturesConfig:
    return FeaturesConfig(policy_states=True, cache_directory=tmp_path / "features")


def test_a_run_reads_them_once_per_model_and_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = _model(tmp_path / "model"), _features(tmp_path)
    first = build_prompt_table(
        _prompts(8), _prompts(10), config, policy_reader(model, DEFAULT_CHAT, SelectionConfig(features=config))
    )
    assert first.states is not None
    assert first.states.shape == (10, 32)
    assert len(np.unique(first.states, axis=0)) == 10
    with monkeypatch.context() as patched:
        patched.setattr(policy_states, "load_model", lambda *_: pytest.fail("read again"))
        again = build_prompt_table(
            _prompts(8), _prompts(10), config, policy_reader(model, DEFAULT_CHAT, SelectionConfig(features=config))
        )
    np.testing.assert_array_equal(first.states, again.states)
    other = _model(tmp_path / "other", seed=1)
    moved = build_prompt_table(
        _prompts(8), _prompts(10), config, policy_reader(other, DEFAULT_CHAT, SelectionConfig(features=config))
    )
    assert moved.states is not None
    assert not np.array_equal(first.states, moved.states)


def test_without_a_cache_they_are_the_same(tmp_path: Path) -> None:
    model, config = _model(tmp_path / "model"), _features(tmp_path)
    kept = build_prompt_table(
        _prompts(5), (), config, policy_reader(model, DEFAULT_CHAT, SelectionConfig(features=config))
    )
    unkept = config.model_copy(update={"cache_directory": None})
    table = build_prompt_table(
        _prompts(5), (), unkept, policy_reader(model, DEFAULT_CHAT, SelectionConfig(features=unkept))
    )
    np.testing.assert_array_equal(kept.states, table.states)


def test_nobody_reads_where_nobody_asked(tmp_path: Path) -> None:
    assert policy_reader(_model(tmp_path / "model"), DEFAULT_CHAT, SelectionConfig()) is None
    assert policy_reader(None, DEFAULT_CHAT, SelectionConfig(features=_features(tmp_path))) is None
