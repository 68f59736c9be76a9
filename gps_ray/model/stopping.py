"""Where a response ends, and which tokens it may have: what the engines ask of a model and its tokenizer."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from gps_ray.base.types import IntArray
from gps_ray.model.folder import stop_token_ids

__all__ = ["end_of_turn_token", "response_stop_tokens", "unknown_token_ids"]

log = logging.getLogger(__name__)

# What the assistant says in the turn that is rendered: no template writes it by itself.
_SAID = "gps4711ray"


def end_of_turn_token(tokenizer: Any) -> int | None:
    """The special token that the chat template writes after what the assistant said; None where it writes none, or
    where there is no template.

    Only the token right behind the text counts (white space apart), and only one that the tokenizer holds as an added
    token: a template that ends a turn in plain words ends no response.
    """
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAID}]
    try:
        rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=False, tokenize=False)
    # A template is a program of the model's: what it raises for these turns says nothing of its prompts.
    except Exception as error:
        log.info("the chat template renders no assistant turn (%s): no stop token is read from it", error)
        return None
    _, said, behind = rendered.rpartition(_SAID)
    tokens = tokenizer.encode(behind.lstrip(), add_special_tokens=False) if said else []
    # Some tokenizers write the space that begins a word as a token of its own.
    texts = [(token, tokenizer.decode([token]).strip()) for token in tokens[:2]]
    first = next((token for token, text in texts if text), None)
    return first if first in tokenizer.added_tokens_decoder else None


def response_stop_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a response: those that the model folder names (``stop_token_ids``) and the template's end of a
    turn, which some folders do not name. Raises ModelError where the folder names none."""
    named = stop_token_ids(model, tokenizer)
    end = end_of_turn_token(tokenizer)
    return named if end is None or end in named else (*named, end)


def unknown_token_ids(num_logits: int, tokenizer: Any) -> IntArray:
    """Ids below ``num_logits`` that the tokenizer does not know, ascending, int64; mostly none, or the padding of the
    vocabulary. They have no text, so they are never sampled, and no policy gives them a probability."""
    is_known = np.zeros(num_logits, dtype=np.bool_)
    ids = np.fromiter(tokenizer.get_vocab().values(), dtype=np.int64)
    is_known[ids[ids < num_logits]] = True
    return np.flatnonzero(~is_known)
