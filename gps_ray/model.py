"""The policy on disk and in memory: a Hugging Face folder, its tokenizer, and its parameters by name.

Any local Hugging Face causal LM works. ``make_embedded_model`` writes a small one where there is none, in the same
layout, so that transformers and vLLM load the same folder. Nothing is ever fetched from a network, no code of a model
folder is ever run, and weights are read from safetensors only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from gps_ray.config import EmbeddedModelConfig
from gps_ray.errors import ModelError
from gps_ray.keyed_random import seed_64
from gps_ray.types import IntArray

__all__ = [
    "EOS_TOKEN",
    "PAD_TOKEN",
    "UNKNOWN_TOKEN",
    "encode_prompt",
    "load_model",
    "load_tokenizer",
    "load_weights_into",
    "make_embedded_model",
    "stop_token_ids",
    "tied_names",
    "weights_from_state_dict",
    "weights_of",
]

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
    with _quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


class _quiet:
    """transformers draws a progress bar for every load and save; the run has its own display."""

    def __enter__(self) -> None:
        self._was_enabled = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        if self._was_enabled:
            transformers_logging.enable_progress_bar()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + "..."


def _check_folder(directory: Path, needed: Sequence[str]) -> None:
    if not directory.is_dir():
        raise ModelError(f"model.path: no such folder: {directory}; set model.path to a local Hugging Face folder")
    for pattern in needed:
        if not any(directory.glob(pattern)):
            raise ModelError(
                f"model.path: {directory} has no {pattern}; set model.path to a complete Hugging Face folder "
                "(config.json, *.safetensors, tokenizer files)"
            )


def load_model(directory: Path, dtype: str = "float32") -> Any:
    """The causal LM of a local Hugging Face folder, in evaluation mode, on the CPU.

    Raises ModelError (one line naming model.path) where the folder is missing, incomplete, truncated or has no
    weights in safetensors, where the weights do not fit its config.json, where it needs code of its own or where it
    holds an adapter.
    """
    _check_folder(directory, ("config.json", "*.safetensors"))
    if (directory / "adapter_config.json").exists():
        # With peft installed transformers would put the adapter into the model, and rename its parameters.
        raise ModelError(
            f"model.path: {directory} holds an adapter (adapter_config.json); merge it and set model.path to the result"
        )
    try:
        with _quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    # The library raises whatever a damaged file leads to (OSError, ValueError, KeyError, its own Rust errors).
    except Exception as error:
        raise ModelError(f"model.path: cannot load {directory}: {_one_line(error)}; change model.path") from error
    # transformers only warns about these and goes on with random numbers.
    for what in ("missing_keys", "mismatched_keys"):
        if info.get(what):
            raise ModelError(
                f"model.path: the weights in {directory} do not fit its config.json: {what.replace('_', ' ')} "
                f"{sorted(map(str, info[what]))[:3]}; change model.path"
            )
    return model.eval()


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a local Hugging Face folder, padding on the left. Raises ModelError like ``load_model``."""
    _check_folder(directory, ("config.json", "tokenizer*"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"model.path: cannot load the tokenizer in {directory}: {_one_line(error)}; change model.path"
        ) from error
    tokenizer.padding_side = "left"
    return tokenizer


def encode_prompt(tokenizer: Any, text: str) -> IntArray:
    """The prompt's tokens [P] int32 as the policy reads them.

    With a chat template the text is one user turn and the assistant's turn is opened; without one it is plain text
    with the special tokens that the tokenizer itself adds.
    """
    if tokenizer.chat_template is not None:
        turn = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        # The template has written its own special tokens.
        tokens = tokenizer.encode(rendered, add_special_tokens=False)
    else:
        tokens = tokenizer.encode(text)
    return np.asarray(tokens, dtype=np.int32)


def stop_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response: of generation_config.json, else of config.json, else the tokenizer's EOS.

    Raises ModelError where there is none.
    """
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        if value is not None:
            return tuple(int(token) for token in (value if isinstance(value, Iterable) else (value,)))
    raise ModelError("model.path: no end-of-sequence token in generation_config.json, config.json or the tokenizer")


def tied_names(model: Any) -> frozenset[str]:
    """Names that are only another name of a parameter (lm_head.weight of tied embeddings)."""
    return frozenset(model.all_tied_weights_keys)


def weights_from_state_dict(
    state_dict: Mapping[str, torch.Tensor], tied: frozenset[str] = frozenset()
) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> numpy copy, sorted by name, without the ``tied`` names. bfloat16 and float16, which numpy or Arrow do
    not know, travel as float32 (exact)."""
    weights = {}
    for name in sorted(set(state_dict) - tied):
        tensor = state_dict[name].detach()
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        weights[name] = tensor.to(device="cpu", dtype=dtype, copy=True).contiguous().numpy()
    return weights


def weights_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """All parameters by their Hugging Face names, as copies (``weights_from_state_dict``)."""
    return weights_from_state_dict(model.state_dict(), tied_names(model))


@torch.no_grad()
def load_weights_into(model: Any, weights: Mapping[str, Any]) -> None:
    """Copy ``weights`` (as ``weights_of`` gives them) into the model in place.

    Raises ModelError naming a missing, unexpected or mismatched parameter; nothing is changed then.
    """
    parameters = {name: tensor for name, tensor in model.state_dict().items() if name not in tied_names(model)}
    problems = [f"missing {name}" for name in sorted(parameters.keys() - weights.keys())]
    problems += [f"unexpected {name}" for name in sorted(weights.keys() - parameters.keys())]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(parameters[name].shape)}"
        for name in sorted(parameters.keys() & weights.keys())
        if tuple(weights[name].shape) != tuple(parameters[name].shape)
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ModelError(f"weights do not fit the model: {'; '.join(problems[:3])}{more}; change model.path")
    for name, parameter in parameters.items():
        # torch.tensor copies, so that read-only shared memory may come in.
        parameter.copy_(torch.tensor(weights[name]))
