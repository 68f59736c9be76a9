"""Results as JSON files that people read and diff, and JSON of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["parse_json", "write_json"]

_DIGITS = 6  # significant ones: what is measured has no more
_MAX_LINE = 240


def parse_json(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """As ``json.loads``; what is nested deeper than Python goes is a ValueError too, as is, with ``unique_keys``, a key
    that an object has twice, of which Python would take the last."""
    try:
        return json.loads(text, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise ValueError("nested too deeply to be read") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in an object")
    return found


def write_json(path: Path, value: Any) -> None:
    """One figure per line, so that a changed figure is a changed line; makes the folder where there is none.

    Indented by one. A list or mapping that holds no further mapping stands on one line where it fits. Floats
    that are no whole numbers are rounded to six significant digits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_open(_rounded(value), "") + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float) and not value.is_integer():  # a count, however large, stays what it is
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _text(value: Any, indent: str) -> str:
    line = json.dumps(value)
    flat = len(line) <= _MAX_LINE and not any(_has_mapping(part) for part in _parts(value))
    return line if flat else _open(value, indent)


def _open(value: Any, indent: str) -> str:
    """A line for each part; an empty container or a plain value as it is."""
    if not _parts(value):
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{json.dumps(str(key))}: {_text(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(inner + line for line in lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _text(part, inner) for part in value) + f"\n{indent}]"


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _has_mapping(value: Any) -> bool:
    return isinstance(value, dict) or any(_has_mapping(part) for part in _parts(value))
