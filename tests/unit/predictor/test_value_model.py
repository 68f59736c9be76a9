"""PCL's value model: one AdamW step against the same step written out, learning, and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gps_ray.base.errors import CheckpointError
from gps_ray.base.keyed_random import generator
from gps_ray.base.types import FloatArray
from gps_ray.config import PclConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.predictor.value_model import ValueModelPredictor

NUM_PROMPTS = 64


def _table(num_features: int = 8) -> PromptTable:
    embeddings = generator(0, "test/embeddings").normal(size=(NUM_PROMPTS, num_features)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = tuple(f"p{i}" for i in range(NUM_PROMPTS))
    return PromptTable(prompt_ids=names, texts=names, embeddings=embeddings, num_pool=NUM_PROMPTS)


def _batch(rows: list[int], num_right: list[int], num_tried: list[int]) -> OutcomeBatch:
    return OutcomeBatch(
        step=1,
        rows=np.array(rows, dtype=np.int64),
        num_right=np.array(num_right, dtype=np.int32),
        num_tried=np.array(num_tried, dtype=np.int32),
        mean_response_length=np.full(len(rows), np.nan, np.float32),
    )


def _mean(predictor: ValueModelPredictor) -> FloatArray:
    return predictor.predict(np.arange(NUM_PROMPTS), 1).mean()


def test_one_update_is_one_adamw_step_on_the_squared_error() -> None:
    config = PclConfig(hidden_dim=16, updates_per_step=1)
    predictor = ValueModelPredictor(_table(), config, run_seed=3)
    before = {name: torch.from_numpy(value) for name, value in predictor.state().items() if name.startswith("model/")}
    w1, b1, w2, b2, w3, b3 = (value.clone().requires_grad_() for value in before.values())
    embeddings = _table().embeddings.astype(np.float64)
    x = torch.from_numpy(((embeddings - embeddings.mean(axis=0)) / embeddings.std(axis=0))[[5, 9, 11]]).float()
    hidden = torch.nn.functional.gelu(torch.nn.functional.gelu(x @ w1.T + b1) @ w2.T + b2)
    value = torch.sigmoid(hidden @ w3.T + b3)[:, 0]
    loss = ((value - torch.tensor([0.25, 1.0, 0.0])) ** 2).mean()
    loss.backward()

    # Row 20 has no verdict and must not count; row 9 has a single response.
    predictor.observe(_batch([5, 9, 20, 11], [2, 1, 0, 0], [8, 1, 0, 8]))
    assert predictor.metrics()["loss"] == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_array_equal(predictor.seen(np.array([5, 9, 11, 20])), [True, True, True, False])
    for (name, old), parameter in zip(before.items(), (w1, b1, w2, b2, w3, b3), strict=True):
        # The first AdamW step is a decay, then lr * g / (|g| + eps).
        assert parameter.grad is not None
        step = config.learning_rate * parameter.grad / (parameter.grad.abs() + 1e-8)
        wanted = old * (1 - config.learning_rate * config.weight_decay) - step
        moved = np.abs(parameter.grad.numpy()) > 1e-6  # where |g| is near eps, rounding decides
        np.testing.assert_allclose(predictor.state()[name][moved], wanted.detach().numpy()[moved], atol=2e-5)


def test_it_learns_what_the_embedding_tells() -> None:
    table = _table()
    truth = 1 / (1 + np.exp(-8 * table.embeddings[:, 0].astype(np.float64)))
    predictor = ValueModelPredictor(table, PclConfig(hidden_dim=32), run_seed=0)
    untrained = float(np.mean((_mean(predictor) - truth) ** 2))
    for step in range(60):
        rng = generator(0, "test/outcomes", step)
        rows = rng.choice(48, size=16, replace=False)
        predictor.observe(_batch(rows.tolist(), rng.binomial(8, truth[rows]).tolist(), [8] * 16))
    held_out = _mean(predictor)[48:]
    assert float(np.mean((_mean(predictor) - truth) ** 2)) < untrained / 4
    assert np.corrcoef(held_out, truth[48:])[0, 1] > 0.8


def test_an_empty_batch_changes_nothing() -> None:
    predictor = ValueModelPredictor(_table(), PclConfig(), run_seed=0)
    predictor.observe(_batch([1], [1], [2]))
    before = predictor.state()
    predictor.observe(_batch([], [], []))
    predictor.observe(_batch([2], [0], [0]))
    for name, array in predictor.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_initial_weights_depend_on_the_run_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    first = _mean(ValueModelPredictor(_table(), PclConfig(), run_seed=0))
    drawn = torch.random.get_rng_state()
    again = _mean(ValueModelPredictor(_table(), PclConfig(), run_seed=0))
    assert torch.equal(drawn, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, _mean(ValueModelPredictor(_table(), PclConfig(), run_seed=1)))


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    original = ValueModelPredictor(_table(), PclConfig(), run_seed=0)
    original.observe(_batch([1, 2], [1, 0], [2, 2]))
    loaded = ValueModelPredictor(_table(), PclConfig(), run_seed=5)
    loaded.load_state(original.state())
    for predictor in (original, loaded):
        predictor.observe(_batch([3, 4], [2, 1], [2, 2]))
    np.testing.assert_array_equal(_mean(original), _mean(loaded))


def test_a_state_of_another_size_is_refused() -> None:
    state = ValueModelPredictor(_table(), PclConfig(hidden_dim=16), run_seed=0).state()
    with pytest.raises(CheckpointError, match=r"selection\.pcl"):
        ValueModelPredictor(_table(), PclConfig(hidden_dim=32), run_seed=0).load_state(state)
