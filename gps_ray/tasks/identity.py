"""What makes two prompts the same prompt."""

from __future__ import annotations

import hashlib
import json

__all__ = ["prompt_id"]


def prompt_id(task: str, text: str, answer: str) -> str:
    """A hash of the content, 32 hexadecimal digits, the same on every machine and in every run."""
    # JSON keeps the three parts apart whatever characters they hold, lone surrogates included.
    content = json.dumps([task, text, answer], ensure_ascii=True)
    return hashlib.blake2b(content.encode("ascii"), digest_size=16).hexdigest()
