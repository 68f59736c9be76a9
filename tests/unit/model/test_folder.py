import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gps_ray.base.errors import ModelError
from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import (
    load_model,
    load_tokenizer,
    load_weights_into,
    make_embedded_model,
    stop_token_ids,
    weights_of,
)

WORDS = [*map(str, range(101)), *"+-*/()=:"]


def _make(directory: Path, **changes: object) -> Path:
    make_embedded_model(EmbeddedModelConfig.model_validate({"num_layers": 1, **changes}), WORDS, directory)
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make(tmp_path_factory.mktemp("model"))


def test_default_model_has_the_size_of_the_demo(tmp_path: Path) -> None:
    make_embedded_model(EmbeddedModelConfig(), WORDS, tmp_path)
    model = load_model(tmp_path)
    assert 600_000 < model.num_parameters() < 700_000
    assert model.config.head_dim == 32


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_plain_transformers_loads_the_folder(tmp_path: Path, family: str, tied: bool) -> None:
    _make(tmp_path, family=family, tie_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == family
    assert ("lm_head.weight" in weights_of(model)) is not tied
    # AutoTokenizer must give back our word-level tokenizer, whatever class it registers for the family.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer.encode("37 * ( 2 + 100 )")) == "37 * ( 2 + 100 )"


def test_tokenizer_keeps_words_whole(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokens = np.asarray(tokenizer.encode("12 + 3 = 99 cats"))
    assert tokens.tolist() == [3 + 12, 3 + 101, 3 + 3, 3 + 107, 3 + 99, tokenizer.unk_token_id]
    assert tokenizer.decode([15, 104, 6, tokenizer.eos_token_id], skip_special_tokens=True) == "12 + 3"


def test_initial_weights_are_a_function_of_the_seed(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    files = [
        load_file(_make(tmp_path / name, seed=seed) / "model.safetensors")
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])
    assert not np.array_equal(files[0]["model.embed_tokens.weight"], files[2]["model.embed_tokens.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], ["<eos>"], [""]])
def test_impossible_vocabulary_is_refused(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(ModelError, match="vocabulary"):
        make_embedded_model(EmbeddedModelConfig(), words, tmp_path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda d: (d / "config.json").unlink(), "config.json"),
        (lambda d: (d / "model.safetensors").unlink(), "safetensors"),
        (lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:5000]), "cannot load"),
        (lambda d: (d / "config.json").write_text("{"), "cannot load"),
        (
            lambda d: save_file(
                {k: v for k, v in load_file(d / "model.safetensors").items() if "q_proj" not in k},
                d / "model.safetensors",
                {"format": "pt"},
            ),
            "missing keys",
        ),
    ],
)
def test_damaged_folder_is_one_line_naming_model_path(tmp_path: Path, damage: object, says: str) -> None:
    _make(tmp_path / "m")
    damage(tmp_path / "m")  # type: ignore[operator]
    with pytest.raises(ModelError, match=says) as error:
        load_model(tmp_path / "m")
    assert "model.path" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adapter_beside_the_model_is_refused_and_not_put_into_it(tmp_path: Path) -> None:
    _make(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}')
    with pytest.raises(ModelError, match=r"model\.path: .* holds an adapter"):
        load_model(tmp_path)


def test_missing_tokenizer_is_one_line_naming_model_path(tmp_path: Path) -> None:
    _make(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"model\.path.*tokenizer"):
        load_tokenizer(tmp_path)


def test_folder_that_needs_its_own_code_is_refused_and_not_run(tmp_path: Path) -> None:
    _make(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"model\.path"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_weights_go_from_one_model_into_another(tmp_path: Path, tied: bool) -> None:
    source = load_model(_make(tmp_path / "a", seed=1, tie_embeddings=tied))
    target = load_model(_make(tmp_path / "b", seed=2, tie_embeddings=tied))
    weights = weights_of(source)
    for array in weights.values():
        array.setflags(write=False)  # as they come out of shared memory
    load_weights_into(target, weights)
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(source(tokens).logits, target(tokens).logits)
        source.lm_head.weight.zero_()
    assert np.any(weights["model.embed_tokens.weight"]), "weights_of must copy"


def test_bfloat16_weights_travel_exactly(folder: Path) -> None:
    model = load_model(folder, "bfloat16")
    weights = weights_of(model)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights_into(model, weights)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.dtype == torch.bfloat16


def test_weights_that_do_not_fit_are_named_and_change_nothing(folder: Path) -> None:
    model = load_model(folder)
    good = weights_of(model)
    name = "model.layers.0.mlp.up_proj.weight"
    zeros = {key: np.zeros_like(value) for key, value in good.items()}
    cases = {
        f"missing {name}": {k: v for k, v in zeros.items() if k != name},
        "unexpected other": zeros | {"other": np.zeros(1)},
        f"{name} has shape": zeros | {name: np.zeros((2, 2), np.float32)},
    }
    for says, weights in cases.items():
        with pytest.raises(ModelError, match=says):
            load_weights_into(model, weights)
    assert all(np.array_equal(good[key], value) for key, value in weights_of(model).items())


def test_stop_tokens_come_from_the_generation_config_first(folder: Path) -> None:
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert stop_token_ids(model, tokenizer) == (tokenizer.eos_token_id,)
    model.generation_config.eos_token_id = [1, 7]
    assert stop_token_ids(model, tokenizer) == (1, 7)
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-sequence"):
        stop_token_ids(model, tokenizer)


def test_heads_that_do_not_divide_the_hidden_size_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size"):
        EmbeddedModelConfig(hidden_size=100, num_heads=8)
