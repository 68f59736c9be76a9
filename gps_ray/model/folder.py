"""The policy as a local Hugging Face folder: the model, its tokenizer, where a response ends.

Any local Hugging Face causal LM works. Nothing is ever fetched from a network, no code of a model folder is ever run,
and weights are read from safetensors only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from gps_ray.base.errors import ModelError, one_line

__all__ = ["load_model", "load_tokenizer", "stop_token_ids", "without_progress_bars"]


class without_progress_bars:
    """transformers draws a progress bar for every load and save; the run has its own display."""

    def __enter__(self) -> None:
        self._was_enabled = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        if self._was_enabled:
            transformers_logging.enable_progress_bar()


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
        with without_progress_bars():
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
        raise ModelError(f"model.path: cannot load {directory}: {one_line(error)}; change model.path") from error
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
            f"model.path: cannot load the tokenizer in {directory}: {one_line(error)}; change model.path"
        ) from error
    tokenizer.padding_side = "left"
    return tokenizer


def stop_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response: of generation_config.json, else of config.json, else the tokenizer's EOS.

    Raises ModelError where there is none.
    """
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        if value is not None:
            return tuple(int(token) for token in (value if isinstance(value, Iterable) else (value,)))
    raise ModelError("model.path: no end-of-sequence token in generation_config.json, config.json or the tokenizer")
