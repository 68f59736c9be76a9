"""Prompt states read from a model, in a run from the policy that it starts with.

A run's own are kept by model and by all of its prompts: those that are read together share batches, whose shape decides
the last bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from gps_ray.base.types import FloatArray, IntArray, Prompt
from gps_ray.config import SelectionConfig
from gps_ray.model import load_model, load_tokenizer
from gps_ray.model.fingerprint import model_fingerprint
from gps_ray.model.middle_states import layers_at, middle_states
from gps_ray.predictor.prompt_states import StatesOf, fill_states, text_digest
from gps_ray.tasks.chat import ChatFormat

__all__ = ["ModelReader", "policy_reader"]


class ModelReader:
    """Reads prompts with the model in a Hugging Face folder, which is loaded when it is first needed.

    ``num_threads`` of torch while it reads: how a sum is shared out among threads decides the last bits.
    """

    def __init__(
        self,
        directory: Path,
        depths: Sequence[float],
        max_tokens: int,
        *,
        num_threads: int,
        dtype: str = "bfloat16",
        device: str = "cpu",
    ) -> None:
        self.of = StatesOf(model=model_fingerprint(directory), depths=tuple(depths), max_tokens=max_tokens)
        self._directory, self._dtype, self._device, self._num_threads = directory, dtype, device, num_threads
        self._model: Any = None

    def read(self, prompts: Sequence[IntArray]) -> FloatArray:
        """[N, F] float16 of the prompts' tokens [P_i]."""
        if self._model is None:
            self._model = load_model(self._directory, self._dtype).to(self._device)
        before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        try:
            return middle_states(self._model, prompts, layers_at(self._model, self.of.depths), self.of.max_tokens)
        finally:
            torch.set_num_threads(before)


def policy_reader(
    directory: Path | None, chat: ChatFormat, selection: SelectionConfig
) -> Callable[[Sequence[Prompt]], FloatArray] | None:
    """For ``build_prompt_table``: prompts as the policy reads them, [N, F] float16; None where there is no policy (a
    simulated one) or ``selection.features`` asks for no states of it."""
    config = selection.features
    if directory is None or not config.policy_states:
        return None
    source = directory

    def states(prompts: Sequence[Prompt]) -> FloatArray:
        tokenizer = load_tokenizer(source)
        reader = ModelReader(source, config.state_depths, config.state_max_tokens, num_threads=selection.num_threads)
        chats = {chat.render(tokenizer, prompt.chat): prompt.chat for prompt in prompts}

        def read(part: Sequence[str]) -> FloatArray:
            return reader.read([chat.encode(tokenizer, chats[text]) for text in part])

        texts = [chat.render(tokenizer, prompt.chat) for prompt in prompts]
        if config.cache_directory is None:
            with TemporaryDirectory() as folder:
                return fill_states(Path(folder) / "states", reader.of, texts, read).take(texts)
        return fill_states(config.cache_directory / _name(reader.of, texts), reader.of, texts, read).take(texts)

    return states


def _name(of: StatesOf, texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(json.dumps(asdict(of)).encode(), digest_size=16)
    for text in texts:
        digest.update(text_digest(text))
    return f"states_{digest.hexdigest()}.safetensors"
