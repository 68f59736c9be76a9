"""YAML as people mean it, from files and command lines that may be anything.

Of YAML 1.1's guesses only the harmless ones are left: ``on`` and ``no`` are words, ``1:30`` is no number of minutes,
``010`` is ten, ``1e-4`` is a number and a date stays text until a key asks for one. A key may stand once. Size, depth
and what anchors unfold to are bounded before anything is built.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any, ClassVar

import yaml

from gps_ray.base.errors import ConfigError, one_line

__all__ = ["parse_yaml", "read_yaml"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 50_000


class _Loader(yaml.SafeLoader):
    """A safe loader with fewer guesses, that refuses a key which stands twice."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                problem=f"{', '.join(twice)} stands twice; keep one", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def read_yaml(option: str, file: Path) -> Any:
    """What the file holds, None where it is empty. Raises ConfigError that names ``option``."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ConfigError(f"{option}: {file} is no file; give an existing YAML file")
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{option}: cannot read {file}: {error.strerror}; give an existing YAML file") from error
    except ValueError as error:  # a null byte in the path
        raise ConfigError(f"{option}: {str(file)!r} is no path; give an existing YAML file") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{option}: {file} is not UTF-8 (byte {error.start} is 0x{content[error.start]:02x}); save it as UTF-8"
        ) from error
    return parse_yaml(text, f"{option}: {file}")


def parse_yaml(text: str, what: str) -> Any:
    """The value that the text stands for. Raises ConfigError that begins with ``what`` for no YAML, or too much."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{what}: expected at most {MAX_BYTES:,} bytes of YAML, got more; is it the right file?")
    try:
        depth = deepest = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                raise ConfigError(f"{what}: expected at most {MAX_DEPTH} levels of YAML, got more; write it flatter")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _num_values(node, {}) > MAX_VALUES:
                raise ConfigError(
                    f"{what}: expected at most {MAX_VALUES:,} values, its anchors unfold to more; write out what is "
                    "meant"
                )
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{what} is not YAML: {one_line(error)}") from error


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below the node when every alias is written out; a node that holds itself has more than can be."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_VALUES + 1
    below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_num_values(part, known) for part in below))
    known[id(node)] = total
    return total
