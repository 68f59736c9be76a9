"""From the messages of a prompt to the tokens that the policy reads."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gps_ray.base.errors import ModelError, one_line
from gps_ray.base.types import IntArray, Message

__all__ = ["DEFAULT_CHAT", "ChatFormat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """How messages are written down: by the model's own chat template, or by ``template`` (Jinja) in its place.

    ``arguments`` are what the template is given beside the messages (``enable_thinking``). A template that asks for
    today's date gets ``date``, the run's, unless it is an argument: a resume on another day must read the same tokens.
    """

    template: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: datetime.date | None = None

    def render(self, tokenizer: Any, messages: Sequence[Message], *, opens_turn: bool = True) -> str:
        """The text of the messages, with the assistant's turn opened where ``opens_turn``; without any template their
        contents alone, with blank lines between. Raises ModelError, one line, where the template refuses them."""
        if self.template is None and tokenizer.chat_template is None:
            return "\n\n".join(message.content for message in messages)
        try:
            rendered: str = tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in messages],
                chat_template=self.template,
                add_generation_prompt=opens_turn,
                tokenize=False,
                **{**self._today(), **self.arguments},
            )
        except Exception as error:  # a template is a program of somebody else's
            raise ModelError(
                f"data.chat_template: the template does not take a prompt of {', '.join(m.role for m in messages)} "
                f"messages ({one_line(error)}); change data.chat_template, data.chat_template_kwargs or the prompts"
            ) from error
        return rendered

    def encode(self, tokenizer: Any, messages: Sequence[Message]) -> IntArray:
        """The tokens [P] int32 of ``render``. A template writes its special tokens itself; plain text gets those that
        the tokenizer puts in front, and none behind: the response goes on from there."""
        text = self.render(tokenizer, messages)
        bare = tokenizer.encode(text, add_special_tokens=False)
        if self.template is not None or tokenizer.chat_template is not None:
            return np.asarray(bare, dtype=np.int32)
        whole = tokenizer.encode(text)
        for begin in range(len(whole) - len(bare) + 1):
            if whole[begin : begin + len(bare)] == bare:
                whole = whole[: begin + len(bare)]
                break
        return np.asarray(whole, dtype=np.int32)

    def _today(self) -> dict[str, Any]:
        """The two ways in which templates ask for the date."""
        if self.date is None:
            return {}
        return {"strftime_now": self.date.strftime, "date_string": self.date.strftime("%d %b %Y")}


DEFAULT_CHAT = ChatFormat()
