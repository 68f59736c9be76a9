"""How many tokens prompts have as the policy reads them, for pools of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gps_ray.base.types import IntArray, Message, Prompt
from gps_ray.tasks.chat import ChatFormat

__all__ = ["PromptLengths"]

# A tokenizer that falls back to bytes makes at most a token of each; normalising may lengthen a text a little.
_TOKENS_PER_BYTE = 2
_SPARE_TOKENS = 32


class PromptLengths:
    """Tokens [N] int64 of prompts [N]. Those that are sure to be no longer than ``limit`` tokens, by their bytes, are
    not tokenised: for them the bound is given. So a pool of short prompts costs next to nothing."""

    def __init__(self, tokenizer: Any, chat: ChatFormat, limit: int) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._limit = limit
        self._frames: dict[tuple[str, ...], int] = {}

    def __call__(self, prompts: Sequence[Prompt]) -> IntArray:
        return np.array([self._length(prompt) for prompt in prompts], dtype=np.int64)

    def _length(self, prompt: Prompt) -> int:
        num_bytes = sum(len(message.content.encode()) for message in prompt.chat)
        bound = _TOKENS_PER_BYTE * num_bytes + self._frame(tuple(message.role for message in prompt.chat))
        return bound if bound <= self._limit else len(self._chat.encode(self._tokenizer, prompt.chat))

    def _frame(self, roles: tuple[str, ...]) -> int:
        """What the template writes around turns of these roles. A template that refuses them is found here."""
        if roles not in self._frames:
            turns = [Message(role=role, content="x") for role in roles]
            self._frames[roles] = len(self._chat.encode(self._tokenizer, turns)) + _SPARE_TOKENS
        return self._frames[roles]
