"""States of the middle layers against transformers' own, one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gps_ray.base.errors import ModelError
from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import load_model, make_embedded_model
from gps_ray.model.middle_states import layers_at, middle_states

PROMPTS = [np.array(tokens, dtype=np.int32) for tokens in ([5, 6, 7, 8, 9], [3], [], [11, 12, 13], [4, 9] * 20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> object:
    directory = tmp_path_factory.mktemp("model")
    config = EmbeddedModelConfig(num_layers=4, hidden_size=32, num_heads=1, intermediate_size=64)
    make_embedded_model(config, [*map(str, range(101))], directory)
    return load_model(directory)


def test_they_are_mean_states_of_single_prompts_without_the_first_token(model: object) -> None:
    states = middle_states(model, PROMPTS, (2, 3), max_tokens=64)
    assert states.shape == (5, 64)
    assert states.dtype == np.float16
    np.testing.assert_array_equal(states[2], 0)
    for prompt, found in zip(PROMPTS, states, strict=True):
        if not len(prompt):
            continue
        with torch.no_grad():
            output = model(input_ids=torch.from_numpy(prompt[None].astype(np.int64)), output_hidden_states=True)  # type: ignore[operator]
        layers = [output.hidden_states[layer][0] for layer in (2, 3)]
        layers = [states / states.pow(2).mean(dim=-1, keepdim=True).sqrt() for states in layers]
        means = [(states[1:] if len(states) > 1 else states).mean(dim=0) for states in layers]
        np.testing.assert_allclose(found, torch.cat(means).numpy(), atol=2e-3)


def test_of_a_long_prompt_the_end_is_read(model: object) -> None:
    long, end = np.arange(3, 60, dtype=np.int32), np.arange(50, 60, dtype=np.int32)
    np.testing.assert_array_equal(*middle_states(model, [long, end], (2,), max_tokens=10))


def test_layers_above_the_deepest_are_not_run_and_hooks_do_not_stay(model: object) -> None:
    ran: list[int] = []
    layers = model.model.layers  # type: ignore[attr-defined]
    before = [len(layer._forward_hooks) for layer in layers]
    hooks = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    middle_states(model, PROMPTS[:1], (2,), max_tokens=64)
    assert set(ran) <= {0, 1}
    for hook in hooks:
        hook.remove()
    assert [len(layer._forward_hooks) for layer in layers] == before


def test_depths_are_shares_of_the_layers(model: object) -> None:
    assert layers_at(model, (0.5, 0.75, 0.74)) == (2, 3)
    assert layers_at(model, (0.01, 1.0)) == (1, 4)


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    class Config:
        num_hidden_layers, hidden_size = 3, 8

        def get_text_config(self) -> Config:
            return self

    bare = torch.nn.Linear(2, 2)
    bare.config = Config()  # type: ignore[assignment]
    with pytest.raises(ModelError, match="no list of 3 layers"):
        middle_states(bare, PROMPTS, (1,), max_tokens=8)
