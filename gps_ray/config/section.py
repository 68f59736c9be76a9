"""The base of every section, and how a config is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gps_ray.base.errors import ConfigError, one_line

__all__ = ["ConfigSection", "load_config", "parse_config", "read_mapping"]


# Keys and sections that had another name, old -> new, dotted as in a run's config: an old config is told the new one.
RENAMED_KEYS: dict[str, str] = {}


class ConfigSection(BaseModel):
    """Base of every section: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


C = TypeVar("C", bound=ConfigSection)


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = tree
    for depth, name in enumerate(parents):
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"{dotted}: {'.'.join(parents[: depth + 1])} is a value, not a section; remove one of the two"
            )
        node = child
    node[last] = value


def _explain(error: ValidationError, section: type[BaseModel]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        if key in RENAMED_KEYS:
            return f"{key}: this key is now {RENAMED_KEYS[key]}; write {RENAMED_KEYS[key]}"
        known: Any = section
        for part in first["loc"][:-1]:
            # A mapping of sections by name has the name as a part of its own.
            of_names = get_args(known) if get_origin(known) is dict else ()
            known = of_names[1] if of_names else known.model_fields[str(part)].annotation
        return f"{key}: unknown key; known here: {', '.join(known.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # from a section's own check, which names the key inside the section
        return f"{key}.{message}" if key else message
    return f"{key}: {message}, got {first['input']!r}; change {key}"


def read_mapping(option: str, file: Path, entries: str) -> dict[str, Any]:
    """A YAML file that holds a mapping, {} where it is empty. Raises ConfigError that names the command line's
    ``option`` and what the file should hold."""
    try:
        tree = yaml.safe_load(file.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {file}: {error.strerror}; give an existing YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{option}: {file} is not YAML: {one_line(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{option}: {file} must hold {entries} (a mapping), got {type(tree).__name__}")
    return tree


def load_config(section: type[C], file: Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, lay ``key.path=value`` overrides over it (values are YAML) and validate.

    Raises ConfigError with one line that names the key and the remedy.
    """
    tree = {} if file is None else read_mapping("--config", file, "sections")
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or not key:
            raise ConfigError(f"expected key=value, got {override!r}; write for instance run.num_steps=5")
        _set(tree, key, yaml.safe_load(value))
    return parse_config(section, tree)


def parse_config(section: type[C], tree: Mapping[str, Any]) -> C:
    """``section`` from nested mappings; keys that are not there have their defaults. Raises as ``load_config`` does."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, section)) from error
