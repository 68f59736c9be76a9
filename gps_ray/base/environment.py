"""What a process that runs somebody else's code is given of this one's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["clean_environment"]

_SECRETS = ("RAY_AUTH_",)


def clean_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """``environment`` (default: this process's) without Ray's token and the path to it."""
    source = os.environ if environment is None else environment
    return {name: value for name, value in source.items() if not name.startswith(_SECRETS)}
