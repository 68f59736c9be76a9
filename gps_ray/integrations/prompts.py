"""What a caller may give for prompts, rows and counts, and what is wrong with it in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gps_ray.base.errors import UsageError
from gps_ray.base.types import FloatArray, IntArray

__all__ = ["PromptLike", "as_rows", "counts", "fingerprint", "mean_lengths", "prompt_text", "whole_number"]

# A text, or a chat: turns with "role" and "content".
PromptLike = str | Sequence[Mapping[str, Any]]


# Counts travel as int32.
_MOST_ROLLOUTS = 2**31 - 1


def prompt_text(prompt: PromptLike) -> str:
    """The text itself, or the turns of a chat with blank lines between. Parts that are no text (images) are left out.

    Raises UsageError for anything else: a chat without turns, half a surrogate pair.
    """
    try:
        text = prompt if isinstance(prompt, str) else "\n\n".join(_content(turn["content"]) for turn in prompt)
        text.encode()
    except (TypeError, KeyError, AttributeError, UnicodeEncodeError) as error:
        raise _no_prompt(prompt) from error
    if not isinstance(prompt, str) and not len(prompt):
        raise _no_prompt(prompt)
    return text


def _no_prompt(prompt: object) -> UsageError:
    got = ascii(prompt)[:80]
    return UsageError(f"prompts: expected texts in Unicode, or chats of turns with 'role' and 'content', got {got}")


def whole_number(value: Any, what: str) -> int:
    """``value`` as an int. Raises UsageError that begins with ``what``, for True and 1.5 too."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise UsageError(f"{what}: expected a whole number, got {value!r:.80}")
    return int(value)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")


def fingerprint(texts: Sequence[str], embeddings: FloatArray | None) -> bytes:
    """16 bytes that change with every text, their order and the embeddings."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    if embeddings is not None:
        digest.update(np.ascontiguousarray(embeddings).tobytes())
    return digest.digest()


def as_rows(rows: Any, num_prompts: int, what: str) -> IntArray:
    """rows [K] int64, each 0 to ``num_prompts`` - 1. Raises UsageError that begins with ``what``."""
    values = np.asarray(rows)
    if not values.size:
        values = values.astype(np.int64)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise UsageError(f"{what}: expected a list of whole numbers, got shape {values.shape} of {values.dtype}")
    outside = values[(values < 0) | (values >= num_prompts)]
    if len(outside):
        raise UsageError(f"{what}: expected rows 0 to {num_prompts - 1}, got {int(outside[0])}")
    return values.astype(np.int64)


def counts(num_right: ArrayLike, num_tried: ArrayLike, num_rows: int) -> tuple[IntArray, IntArray]:
    """num_right, num_tried [K] int32 with 0 <= num_right <= num_tried. Raises UsageError."""
    found = []
    for name, given in (("num_right", num_right), ("num_tried", num_tried)):
        values = np.asarray(given)
        if values.shape not in ((), (num_rows,)) or not _whole(values):
            raise UsageError(
                f"update: {name}: expected {num_rows} whole numbers or one, got shape {values.shape} of "
                f"{values.dtype}; count rollouts, do not give rates"
            )
        found.append(np.broadcast_to(values, (num_rows,)).astype(np.int64))
        if np.any(np.abs(found[-1]) > _MOST_ROLLOUTS):
            raise UsageError(f"update: {name}: expected at most {_MOST_ROLLOUTS} rollouts, got {np.max(values)}")
    right, tried = found
    wrong = np.flatnonzero((right < 0) | (right > tried))
    if len(wrong):
        place = int(wrong[0])
        raise UsageError(
            f"update: expected 0 <= num_right <= num_tried, got {right[place]} right of {tried[place]} at place {place}"
        )
    return right.astype(np.int32), tried.astype(np.int32)


def mean_lengths(response_lengths: ArrayLike, num_rows: int) -> FloatArray:
    """[K] float32 tokens, NaN where unknown. Raises UsageError."""
    values = np.asarray(response_lengths)
    numeric = np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)
    if values.shape not in ((), (num_rows,)) or not numeric or np.any(values < 0) or np.any(np.isinf(values)):
        raise UsageError(
            f"update: response_lengths: expected {num_rows} mean numbers of tokens or one, at least 0, NaN where "
            f"unknown, got shape {values.shape} of {values.dtype}"
        )
    return np.broadcast_to(values, (num_rows,)).astype(np.float32)


def _whole(values: Any) -> bool:
    if not values.size or np.issubdtype(values.dtype, np.integer):
        return True
    # torch and pandas hand out counts as floats: those without a fraction are counts.
    return bool(
        np.issubdtype(values.dtype, np.floating) and np.all(np.isfinite(values)) and np.all(values == np.floor(values))
    )
