import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gps_ray.config import EmbeddedModelConfig
from gps_ray.model import load_model, load_tokenizer, make_embedded_model
from gps_ray.model.stopping import end_of_turn_token, response_stop_tokens, unknown_token_ids

CHATML = (
    "{% for m in messages %}<|start|> {{ m.role }} {{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|> assistant {% endif %}"
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    make_embedded_model(EmbeddedModelConfig(num_layers=1), ["a", "b"], tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    return tokenizer


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, None),
        (CHATML, "<|end|>"),
        (CHATML.replace("}}<|end|>", "}}\n <|end|>"), "<|end|>"),
        # Llama 3: generation_config's eos is one token, the end of a turn another.
        ("<|start|>{% for m in messages %}{{ m.content | trim }}<eos>{% endfor %}", "<eos>"),
        # Ends of turns in plain words, none at all, and templates that refuse these turns or print them in parts.
        ("{% for m in messages %}{{ m.content }} b {% endfor %}", None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }} b <|end|>{% endfor %}", None),
        ("{{ raise_exception('system first') }}", None),
        ("<|start|>{{ messages[0].content }}<|end|>", None),
        # The answer of a thinking model stands behind its thoughts.
        ("{% for m in messages %}<|start|> a a {{ m.content }}<|end|>{% endfor %}<|start|>", "<|end|>"),
    ],
)
def test_the_token_behind_an_assistant_turn(tokenizer: Any, template: str | None, expected: str | None) -> None:
    tokenizer.chat_template = template
    assert end_of_turn_token(tokenizer) == (None if expected is None else _id(tokenizer, expected))


def test_it_stops_beside_those_that_the_folder_names(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 4]}))
    model = load_model(tmp_path)
    assert response_stop_tokens(model, tokenizer) == (1, 4)
    tokenizer.chat_template = CHATML
    assert response_stop_tokens(model, tokenizer) == (1, 4, _id(tokenizer, "<|end|>"))
    tokenizer.chat_template = CHATML.replace("<|end|>", "<eos>")
    assert response_stop_tokens(model, tokenizer) == (1, 4)


def test_ids_without_a_token(tokenizer: Any) -> None:
    assert len(tokenizer) == 7
    assert unknown_token_ids(10, tokenizer).tolist() == [7, 8, 9]
    assert unknown_token_ids(7, tokenizer).tolist() == []
    assert unknown_token_ids(5, tokenizer).tolist() == []


def test_a_hole_in_the_vocabulary_is_found() -> None:
    assert unknown_token_ids(4, SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 2})).tolist() == [1, 3]
