"""States of prompts: what is kept, what is read again, what is refused, and what the kernels make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from gps_ray.base.errors import ConfigError, DataError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.config import FeaturesConfig, FusedConfig
from gps_ray.predictor.calibration import rank_correlation
from gps_ray.predictor.fused import FusedPredictor
from gps_ray.predictor.fused_features import build_text_features
from gps_ray.predictor.prompt_states import StatesOf, fill_states, load_states, stored_states
from gps_ray.predictor.recorded import outcome_batch
from gps_ray.predictor.text_prior import fit_text_prior, load_text_prior
from tests.unit.predictor.test_fused_features import make_table

OF = StatesOf(model="a" * 64, depths=(0.5, 0.67), max_tokens=64)


class Reader:
    """A text's states are its length and its digits; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        return np.array([[len(text), sum(c.isdigit() for c in text)] for text in texts], dtype=np.float16)


def test_only_what_is_missing_is_read_and_every_text_once(tmp_path: Path) -> None:
    file, reader = tmp_path / "states.safetensors", Reader()
    fill_states(file, OF, ["one 1", "two", "one 1"], reader)
    assert reader.asked == ["one 1", "two"]
    stored = fill_states(file, OF, ["three 33", "two"], reader)
    assert reader.asked == ["one 1", "two", "three 33"]
    np.testing.assert_array_equal(stored.take(["two", "three 33", "two"]), [[3, 0], [8, 2], [3, 0]])
    loaded = load_states(file)
    assert loaded.of == OF
    np.testing.assert_array_equal(loaded.states, stored.states)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_interrupted_reading_goes_on_where_it_was(tmp_path: Path) -> None:
    file, reader = tmp_path / "states.safetensors", Reader()
    texts = [f"prompt {i}" for i in range(600)]

    def fails_later(part: Sequence[str]) -> FloatArray:
        if reader.asked:
            raise KeyboardInterrupt
        return reader(part)

    with pytest.raises(KeyboardInterrupt):
        fill_states(file, OF, texts, fails_later)
    assert 0 < len(load_states(file).digests) < 600
    fill_states(file, OF, texts, reader)
    assert reader.asked == texts


def test_states_of_another_model_are_not_mixed_in(tmp_path: Path) -> None:
    file = tmp_path / "states.safetensors"
    fill_states(file, OF, ["one"], Reader())
    with pytest.raises(DataError, match="give another file"):
        fill_states(file, replace(OF, max_tokens=65), ["two"], Reader())


def test_a_missing_prompt_is_named_with_the_key(tmp_path: Path) -> None:
    file = tmp_path / "states.safetensors"
    fill_states(file, OF, ["one"], Reader())
    assert stored_states(FeaturesConfig(), ["two"]) is None
    with pytest.raises(DataError, match=r"no state of 1 of 2 prompts, the first 'two'.*prompt_states=null"):
        stored_states(FeaturesConfig(prompt_states=file), ["one", "two"])
    with pytest.raises(ConfigError, match="no policy here to read"):
        stored_states(FeaturesConfig(policy_states=True), ["one"])
    with pytest.raises(ValueError, match="expected one of the two"):
        FeaturesConfig(prompt_states=file, policy_states=True)
    (tmp_path / "cut").write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match=r"change selection\.features\.prompt_states"):
        load_states(tmp_path / "cut")


def test_states_are_one_more_kernel_beside_the_text() -> None:
    table = make_table(60)
    states = generator(0, "states").standard_normal((60, 12)).astype(np.float16)
    config = FusedConfig(num_features=60)
    without = build_text_features(table, config).columns.astype(np.float64)
    with_states = build_text_features(replace(table, states=states), config).columns.astype(np.float64)
    added = with_states @ with_states.T - without @ without.T
    np.testing.assert_allclose(np.diag(added), config.states_variance, rtol=0.01)
    scaled = (states - states.astype(np.float64).mean(axis=0)) / states.astype(np.float64).std(axis=0)
    squared = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=-1)
    expected = config.states_variance * np.exp(-squared / (2 * np.median(squared[np.triu_indices(60, 1)])))
    np.testing.assert_allclose(added, expected, atol=0.02)
    off = build_text_features(replace(table, states=states), FusedConfig(num_features=60, states_variance=0.0))
    np.testing.assert_array_equal(off.columns, build_text_features(table, config).columns)


def _told_by_states(num_prompts: int) -> tuple[FloatArray, FloatArray]:
    """states [N, 8] and the logits [N] that their first dimension decides."""
    states = generator(1, "told").standard_normal((num_prompts, 8))
    return states.astype(np.float16), 2.0 * states[:, 0]


def test_the_predictor_learns_what_only_the_states_tell() -> None:
    table = make_table(300)
    states, logits = _told_by_states(300)
    learnt = np.arange(200)
    right = generator(2, "told").binomial(8, expit(logits))
    ranks = []
    for given in (None, states):
        predictor = FusedPredictor(replace(table, states=given), FusedConfig())
        predictor.observe(outcome_batch(0, learnt, right[learnt], np.full(200, 8)))
        ranks.append(rank_correlation(predictor.predict(np.arange(200, 300), 1).mean(), logits[200:]))
    assert ranks[0] < 0.3
    assert ranks[1] > 0.6


def test_a_prior_fitted_on_states_asks_for_them_and_one_without_does_not_look(tmp_path: Path) -> None:
    table = make_table(400)
    states, logits = _told_by_states(400)
    right, tried = generator(3, "told").binomial(32, expit(logits)), np.full(400, 32)
    prior = fit_text_prior(table.texts, table.embeddings, right, tried, states)
    assert prior.report.state_dimension == 8
    prior.save(tmp_path)
    loaded = load_text_prior(tmp_path)
    predicted = loaded.logits(table.texts, table.embeddings, states)
    np.testing.assert_array_equal(predicted, prior.logits(table.texts, table.embeddings, states))
    assert rank_correlation(predicted, logits) > 0.8
    with pytest.raises(DataError, match="prompt states of dimension 8, got none"):
        loaded.logits(table.texts, table.embeddings)
    blind = fit_text_prior(table.texts, table.embeddings, right, tried)
    np.testing.assert_array_equal(
        blind.logits(table.texts, table.embeddings, states), blind.logits(table.texts, table.embeddings)
    )
