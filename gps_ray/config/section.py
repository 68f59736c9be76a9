"""The base of every section, and how a config is read."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gps_ray.base.errors import ConfigError
from gps_ray.config.yaml_text import parse_yaml, read_yaml

__all__ = ["ConfigSection", "load_config", "parse_config", "read_mapping"]


# Keys and sections that had another name, old -> new, dotted as in a run's config: an old config is told the new one.
RENAMED_KEYS: dict[str, str] = {}


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


class ConfigSection(BaseModel):
    """Base of every section: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: Any) -> Any:
        """``true`` is no 1 and no key holds more than 64 bits, whatever pydantic would make of them."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if field is None:
                continue
            if isinstance(value, bool) and not _takes(field.annotation, bool) and _takes(field.annotation, int, float):
                raise ValueError(f"{name}: expected a number, got {str(value).lower()}; change {name}")
            if isinstance(value, int) and abs(value) >= 1 << 63:
                raise ValueError(f"{name}: expected a number of at most 64 bits, got more; change {name}")
        return values


def _takes(annotation: Any, *kinds: type) -> bool:
    return annotation in kinds or any(_takes(part, *kinds) for part in get_args(annotation))


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
            if isinstance(part, int):  # the place in a list of sections
                known = get_args(known)[0]
            elif get_origin(known) is dict:  # the name in a mapping of sections
                known = get_args(known)[1]
            else:
                known = known.model_fields[part].annotation
        return f"{key}: unknown key; known here: {', '.join(known.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        is_of_key = message.startswith("expected ")  # from a key's own check; a section's names the key inside it
        return f"{key}{': ' if is_of_key else '.'}{message}" if key else message
    return f"{key}: {message}, got {_shown(first['input'])}; change {key}"


def _shown(value: Any) -> str:
    """No value is printed whole: it may be of any size."""
    return _REPR.repr(value)


def read_mapping(option: str, file: Path, entries: str) -> dict[str, Any]:
    """A YAML file that holds a mapping, {} where it is empty. Raises ConfigError that names the command line's
    ``option`` and what the file should hold."""
    tree = read_yaml(option, file)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{option}: {file} must hold {entries} (a mapping), got {_shown(tree)}")
    return tree


def load_config(section: type[C], file: Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, lay ``key.path=value`` overrides over it (values are YAML) and validate.

    Raises ConfigError with one line that names the key and the remedy.
    """
    tree = {} if file is None else read_mapping("--config", file, "sections")
    if not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"--config: {file} must hold sections by name, got {_shown(tree)}")
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or not key:
            raise ConfigError(f"expected key=value, got {override!r}; write for instance run.num_steps=5")
        _set(tree, key, parse_yaml(value, key))
    return parse_config(section, tree)


def parse_config(section: type[C], tree: Mapping[str, Any]) -> C:
    """``section`` from nested mappings; keys that are not there have their defaults. Raises as ``load_config`` does."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, section)) from error
