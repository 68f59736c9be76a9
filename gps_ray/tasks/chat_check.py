"""What a chat template would pass over in silence: arguments that it does not read, and the assistant's turn."""

from __future__ import annotations

import logging
import re
from typing import Any

from gps_ray.base.errors import ConfigError, ModelError
from gps_ray.base.types import Message
from gps_ray.tasks.chat import ChatFormat

__all__ = ["check_chat"]

log = logging.getLogger(__name__)

_ASKED = Message(role="user", content="gps4711asks")
_SAID = Message(role="assistant", content="gps4711says")


def check_chat(tokenizer: Any, chat: ChatFormat) -> None:
    """Raise ConfigError for an argument that the template does not read: misspelt, it changes nothing. Warn where the
    template does not open the assistant's turn: the policy would have to write its header itself."""
    if chat.template is None and tokenizer.chat_template is None:
        if chat.arguments:
            raise ConfigError(
                f"data.chat_template_kwargs: there is no template that would read {', '.join(chat.arguments)}; set "
                "data.chat_template or leave data.chat_template_kwargs out"
            )
        return
    template = chat.template if chat.template is not None else tokenizer.get_chat_template()
    unread = [name for name in chat.arguments if not re.search(rf"\b{re.escape(name)}\b", template)]
    if unread:
        raise ConfigError(
            f"data.chat_template_kwargs: the chat template reads no {', '.join(unread)}, so it would change nothing; "
            "mend its name or leave it out"
        )
    _warn_of_no_turn(tokenizer, chat)


def _warn_of_no_turn(tokenizer: Any, chat: ChatFormat) -> None:
    try:
        opened, closed = (chat.render(tokenizer, [_ASKED], opens_turn=opens) for opens in (True, False))
        before, said, _ = chat.render(tokenizer, [_ASKED, _SAID], opens_turn=False).partition(_SAID.content)
    except ModelError:  # what it says of these turns it may not say of the prompts
        return
    header = before.removeprefix(opened).strip()
    if said and opened == closed and before.startswith(opened) and header:
        log.warning(
            "data.chat_template: the template does not open the assistant's turn (it reads no add_generation_prompt): "
            "the policy has to write %r itself; give a template that ends in it",
            header,
        )
