"""What a config key means, from the config's own sections: the reference documentation on the command line."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gps_ray.base.errors import UsageError
from gps_ray.config import Fact, KeyFacts, Resume, TrainConfig, key_facts

__all__ = ["explain"]

_RESUME = {
    Resume.FIXED: "no: another value is another run",
    Resume.APPROXIMATE: "yes, with results equal up to rounding",
    Resume.FREE: "yes, with the same results",
    Resume.FREE_IN_STEP: "yes where run.max_policy_lag is 0, with the same results",
}
_UNITS = {"_s": "seconds", "_bytes": "bytes", "_tokens": "tokens", "_steps": "steps", "_share": "share, 0 to 1"}
_WIDTH = 100


def explain(name: str = "") -> str:
    """What a key (``rollout.group_size``) or a section (``selection.fused``, "" for all sections) is for.

    A key: its description, type, default, unit, bounds and whether a resumed run may change it. A section: its keys
    with their defaults. Raises UsageError, with the nearest names, for a name that the config does not have.
    """
    if not name:
        return "\n".join(_line(key, field) for key, field in TrainConfig.model_fields.items())
    sections = {"": TrainConfig} | dict(_sections(TrainConfig, ""))
    if name in sections:
        return _section(name, sections[name])
    outer, _, last = name.rpartition(".")
    if outer in sections and last in sections[outer].model_fields:
        return _key(name, sections[outer].model_fields[last], key_facts(TrainConfig)[name])
    keys = [*sections, *key_facts(TrainConfig)]
    ends = [key for key in keys if key.endswith(f".{last}")]
    near = ends or difflib.get_close_matches(name, keys, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "gps-ray explain lists the sections"
    raise UsageError(f"explain: the config has no key or section {name!r}; {hint}")


def _sections(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        inner = _section_of(field)
        if inner is not None:
            yield f"{prefix}{name}", inner
            yield from _sections(inner, f"{prefix}{name}.")


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds: itself, or in a list or a mapping."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _section(name: str, section: type[BaseModel]) -> str:
    lines = [_line(f"{name}.{key}", field) for key, field in section.model_fields.items()]
    return "\n".join([f"{name}: {inspect.getdoc(section)}", "", *lines])


def _line(name: str, field: FieldInfo) -> str:
    inner = field.annotation if isinstance(field.annotation, type) and _section_of(field) else None
    if inner is not None:
        return f"{name}: {(inspect.getdoc(inner) or '').splitlines()[0]}"
    text = f"{name} = {_default(field)}"
    if not field.description:
        return text
    return "\n".join([text, *textwrap.wrap(field.description, _WIDTH, initial_indent="    ", subsequent_indent="    ")])


def _key(name: str, field: FieldInfo, facts: KeyFacts) -> str:
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), None)
    bounds = [text for text in map(_bound, field.metadata) if text]
    lines = [
        name,
        *textwrap.wrap(
            field.description or "(the name says it)", _WIDTH, initial_indent="    ", subsequent_indent="    "
        ),
        f"    type: {_type(field.annotation)}",
        f"    default: {_default(field)}",
        *([f"    unit: {unit}"] if unit else []),
        *([f"    bounds: {', '.join(bounds)}"] if bounds else []),
        f"    may a resumed run change it: {_RESUME[facts.resume]}",
        *(["    all runs of a comparison share it"] if Fact.SHARED in facts.others else []),
    ]
    return "\n".join(lines)


def _bound(fact: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "at least this many:"}
    return ", ".join(f"{sign} {getattr(fact, name)}" for name, sign in signs.items() if hasattr(fact, name))


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "null").replace("None", "null")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(must be given)"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value) if str(value) else '""'
