"""What makes two prompts the same prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from gps_ray.base.types import Message

__all__ = ["prompt_id"]


def prompt_id(task: str, text: str, answer: str, messages: Sequence[Message] = ()) -> str:
    """A hash of the content, 32 hexadecimal digits, the same on every machine and in every run. ``messages`` as in
    ``Prompt``: a chat of one user turn has none."""
    chat = [[[message.role, message.content] for message in messages]] if messages else []
    # JSON keeps the parts apart whatever characters they hold, lone surrogates included.
    content = json.dumps([task, text, answer, *chat], ensure_ascii=True)
    return hashlib.blake2b(content.encode("ascii"), digest_size=16).hexdigest()
