"""From a response's tokens to the text that verifiers and people read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gps_ray.model.stopping import end_of_turn_token

__all__ = ["ResponseText"]

_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)>|\[(/?)([A-Za-z][\w-]*)\]")
_QUESTION = "?"


class ResponseText:
    """Decodes without the special tokens that frame a text, and with those that are tags of the answer's format.

    A tag is a special token ``<name>`` beside another that is ``</name>`` (or with square brackets), which has no role
    of its own (beginning, end, padding, unknown, ...), ends no response, and is not what the chat template writes
    around the user's turn. Everything else that the tokenizer calls special goes.
    """

    def __init__(self, tokenizer: Any, stop_tokens: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        special = {int(token): str(added) for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        framing = {*stop_tokens, *_with_a_role(tokenizer), *_around_a_turn(tokenizer), end_of_turn_token(tokenizer)}
        tags = {token: text for token, text in special.items() if token not in framing and _TAG.fullmatch(text)}
        self.kept = frozenset(token for token, text in tags.items() if _partner(text) in tags.values())
        self._dropped = frozenset(special) - self.kept

    def decode(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of tokens."""
        rows = [[int(token) for token in row] for row in responses]
        if self.kept:
            rows = [[token for token in row if token not in self._dropped] for row in rows]
        texts: list[str] = self._tokenizer.batch_decode(rows, skip_special_tokens=not self.kept)
        return texts


def _partner(tag: str) -> str:
    return tag.replace("/", "") if tag[1] == "/" else f"{tag[0]}/{tag[1:]}"


def _with_a_role(tokenizer: Any) -> set[int]:
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    tokens = [getattr(tokenizer, f"{name}_id", None) for name in names]
    return {int(token) for token in tokens if token is not None}


def _around_a_turn(tokenizer: Any) -> set[int]:
    if tokenizer.chat_template is None:
        return set()
    try:
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": _QUESTION}], tokenize=False)
    except Exception:  # a template is a program of the model's; the prompts will say what is wrong with it
        return set()
    return set(tokenizer.encode(rendered, add_special_tokens=False))
