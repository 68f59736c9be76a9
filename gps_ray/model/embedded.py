"""The small model that is made where ``model.path`` is null: a Hugging Face folder like any other, with a word-level
tokenizer, so that transformers and vLLM load it as they load any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from gps_ray.base.errors import ModelError
from gps_ray.base.keyed_random import seed_64
from gps_ray.config import EmbeddedModelConfig
from gps_ray.model.folder import without_progress_bars

__all__ = ["EOS_TOKEN", "PAD_TOKEN", "UNKNOWN_TOKEN", "make_embedded_model"]

PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN = "<pad>", "<eos>", "<unk>"


def _word_tokenizer(vocabulary: Sequence[str], max_tokens: int) -> Any:
    special = [PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN]
    words = [*special, *vocabulary]
    bad = sorted({word for word in vocabulary if word in special or not word or word.split() != [word]})
    if bad or len(set(words)) != len(words):
        repeated = sorted({word for word in words if words.count(word) > 1})
        raise ModelError(
            "vocabulary: expected distinct words without white space that are not special tokens, got "
            f"{(bad or repeated)[:5]!r}; change the vocabulary of the task (data.task)"
        )
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN_TOKEN))
    backend.pre_tokenizer = WhitespaceSplit()
    # No decoder: tokens are joined by one space, so text -> tokens -> text is the identity on words.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_tokens,
    )


def make_embedded_model(config: EmbeddedModelConfig, vocabulary: Sequence[str], directory: Path) -> None:
    """Write a small, freshly initialised model and a word-level tokenizer for ``vocabulary`` into ``directory``.

    The folder holds config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    Token ids are <pad> 0, <eos> 1, <unk> 2, then the words in the order given. The same config and vocabulary give
    the same bytes on every machine with the same torch. Qwen2 is not offered: AutoTokenizer replaces whatever
    tokenizer a Qwen2 folder holds by Qwen's byte-level one, in transformers and therefore in vLLM.

    Raises ModelError if a word of the vocabulary cannot be a token of its own.
    """
    tokenizer = _word_tokenizer(vocabulary, config.max_position_embeddings)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.hidden_size // config.num_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    # transformers initialises from torch's global generator: it is seeded here and given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_64(config.seed, "model/init"))
        if config.family == "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**shape))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    directory.mkdir(parents=True, exist_ok=True)
    with without_progress_bars():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
