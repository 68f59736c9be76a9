"""What a model folder says of the model without its weights being read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gps_ray.base.errors import ModelError, one_line
from gps_ray.model.folder import load_tokenizer

__all__ = ["ModelFacts", "model_facts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """num_parameters: of the architecture in config.json, tied ones once. max_positions: longest prompt + response in
    tokens, None where config.json names none. chat_template: the model's own, "" where it has none. vocabulary,
    hidden_size: of its head. kv_entries_per_token: keys and values of all layers, numbers per token.
    linear_width: inputs plus outputs of every linear layer but the head, summed: adapters of rank r have r times as
    many parameters."""

    num_parameters: int
    max_positions: int | None
    chat_template: str
    vocabulary: int
    hidden_size: int
    kv_entries_per_token: int
    linear_width: int


def model_facts(directory: Path) -> ModelFacts:
    """Raises ModelError, naming model.path, where config.json is not there or describes no causal LM."""
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(
            f"model.path: {directory} has no config.json; set model.path to a complete Hugging Face folder"
        )
    return _read(directory, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(directory: Path, changed_ns: int) -> ModelFacts:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        json.loads((directory / "config.json").read_text())
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        # Parameters without memory: the library knows the shapes of every architecture.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a damaged or unknown config leads to in the library
        raise ModelError(
            f"model.path: {directory}/config.json describes no causal language model that transformers knows "
            f"({one_line(error)}); change model.path"
        ) from error
    text = config.get_text_config()
    template = load_tokenizer(directory).chat_template
    return ModelFacts(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        max_positions=getattr(text, "max_position_embeddings", None),
        chat_template=template if isinstance(template, str) else "",
        vocabulary=text.vocab_size,
        hidden_size=text.hidden_size,
        kv_entries_per_token=_kv_entries(text),
        linear_width=sum(
            layer.in_features + layer.out_features
            for layer in model.modules()
            if isinstance(layer, torch.nn.Linear) and layer is not model.get_output_embeddings()
        ),
    )


def _kv_entries(text: Any) -> int:
    """Of plain attention with keys and values per head; caches that are compressed are smaller."""
    num_heads = text.num_attention_heads
    num_kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    return int(2 * text.num_hidden_layers * num_kv_heads * head_dim)
