"""Objects of the user's own, named in the config as ``package.module:name``."""

from __future__ import annotations

import importlib
from typing import Any

from gps_ray.base.errors import ConfigError

__all__ = ["load_object"]


def load_object(path: str, key: str) -> Any:
    """The object that ``package.module:name`` stands for; ``key`` is the config key that held the path.

    Raises ConfigError, naming ``key``, where the path has another form, or the module or the name does not exist.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"{key}: expected an import path 'package.module:name', got {path!r}; change {key}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{key}: cannot import {module_name!r} ({error}); change {key}") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ConfigError(f"{key}: module {module_name!r} has no {name!r}; change {key}") from error
