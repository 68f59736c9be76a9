"""Objects of the user's own, named in the config as ``package.module:name``, and the options they are made with.

Options are a mapping in the config that reaches the object as keyword arguments: its signature says which there are and
what they default to, and it checks their values itself (TypeError, ValueError, or a pydantic model's own error).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from gps_ray.base.errors import ConfigError, one_line

__all__ = ["build_from_path", "call_with_options", "check_options", "load_object"]


def load_object(path: str, key: str) -> Any:
    """The object that ``package.module:name`` stands for; ``key`` is the config key that held the path.

    Raises ConfigError, naming ``key``, where the path has another form, or the module or the name does not exist.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"{key}: expected an import path 'package.module:name', got {path!r}; change {key}")
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    # Whatever the module does while it is imported, exiting included; odd names give errors of many kinds.
    except BaseException as error:
        raise ConfigError(
            f"{key}: cannot import {module_name!r} ({type(error).__name__}: {one_line(error)}); change {key}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ConfigError(f"{key}: module {module_name!r} has no {name!r}; change {key}") from error


def check_options(function: Callable[..., Any], options: Mapping[str, Any], options_key: str, num_args: int) -> None:
    """Could ``function`` be called with ``num_args`` arguments and these options, by its signature?

    So a misspelt option is known before anything starts. Raises ConfigError, naming ``options_key``.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have none
        return
    try:
        signature.bind(*[None] * num_args, **options)
    except TypeError as error:
        raise ConfigError(
            f"{options_key}: {_name(function)} takes {signature}, but is called with {num_args} arguments and the "
            f"options {dict(options)}: {error}; change {options_key}"
        ) from error


def call_with_options(function: Callable[..., Any], options: Mapping[str, Any], options_key: str, *args: Any) -> Any:
    """``function(*args, **options)``. Raises ConfigError, naming ``options_key``, where it refuses its options.

    Without options a TypeError or ValueError has nothing to do with the config and stays as it is.
    """
    if not options:
        return function(*args)
    try:
        return function(*args, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{options_key}: {_name(function)} refuses {dict(options)}: {_reason(error)}; change {options_key}"
        ) from error


def build_from_path(path: str, key: str, options: Mapping[str, Any], options_key: str, *args: Any) -> Any:
    """What the class or function at ``path`` makes of ``args`` and ``options``. Raises ConfigError that names ``key``
    or ``options_key``."""
    factory = load_object(path, key)
    if not callable(factory):
        raise ConfigError(
            f"{key}: expected a class or function at {path!r}, got one of type {type(factory).__name__}; change {key}"
        )
    check_options(factory, options, options_key, len(args))
    return call_with_options(factory, options, options_key, *args)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}, got {first['input']!r}"
    return one_line(error)
