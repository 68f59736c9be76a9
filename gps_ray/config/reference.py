"""Every config key with what is to know of it, from the models themselves: for the documentation and the console.

::

    for section in config_reference():
        print(section.key, [key.name for key in section.keys])
    print(explain("rollout.vllm"))
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gps_ray.base.errors import ConfigError
from gps_ray.config.advice import WHEN_TO_CHANGE
from gps_ray.config.facts import Fact, KeyFacts, Resume
from gps_ray.config.run import TrainConfig

__all__ = ["RESUME_WORDS", "KeyReference", "SectionReference", "config_reference", "explain", "reference_markdown"]

RESUME_WORDS: dict[Resume, str] = {
    Resume.FIXED: "no",
    Resume.APPROXIMATE: "yes, equal up to rounding",
    Resume.FREE: "yes",
    Resume.FREE_IN_STEP: "yes, without a policy lag",
}

# The unit of a number, by what its name ends with or begins with; the first that fits.
_UNITS: tuple[tuple[str, str], ...] = (
    (r"_s$", "seconds"),
    (r"_bytes$", "bytes"),
    (r"(learning_rate|exponent|_variance|_drift|_scale|_multiple|_ratio|coefficient|discount)$", ""),
    (r"^num_cpus|^local_num_cpus$", "CPUs"),
    (r"^num_gpus", "GPUs"),
    (r"tokens$|^max_model_len$|^max_position_embeddings$", "tokens"),
    (r"^num_threads$", "threads"),
    (r"^num_workers$|^num_verifiers$|tensor_parallel_size", "processes"),
    (r"prompts$|^num_verifier_trials$|^prompts_per_chunk$|^num_landmarks$", "prompts"),
    (r"^group_size|rollouts", "rollouts"),
    (r"^num_examples$|^batch_size$", "examples"),
    (r"^max_num_seqs$", "responses"),
    (r"^max_chunk_attempts$", "attempts"),
    (r"^max_rounds$", "rounds"),
    (r"^num_minibatches$", "mini-batches"),
    (r"_steps$|^max_skipped_updates$", "steps"),
    (r"_updates$|^updates_per_step$", "updates"),
    (r"^keep_", "checkpoints"),
    (r"^num_recent_batches$", "batches"),
    (r"^num_kinds$", "kinds"),
    (r"^max_policy_lag$", "policy versions"),
    (r"^lora_rank$", "dimensions"),
)


@dataclass(frozen=True, slots=True)
class KeyReference:
    """One key, all parts as people read them; ``unit`` is "" for what is no quantity of something."""

    key: str
    """Dotted, as on the command line and in errors; N stands for a place in a list, NAME for a name of yours."""
    type: str
    default: str
    unit: str
    description: str
    when_to_change: str
    facts: KeyFacts

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def resume(self) -> str:
        """May a resumed run have another value?"""
        return RESUME_WORDS[self.facts.resume]


@dataclass(frozen=True, slots=True)
class SectionReference:
    """A section with the keys that stand in it directly; sections within it follow as entries of their own."""

    key: str
    description: str
    keys: tuple[KeyReference, ...]


def config_reference(root: type[BaseModel] = TrainConfig) -> tuple[SectionReference, ...]:
    """Every section of ``root``, in the order of the file, sections before those within them."""
    return tuple(_sections(root, "", KeyFacts()))


def explain(name: str = "", root: type[BaseModel] = TrainConfig) -> str:
    """What is to know of a key or of a section with all in it, as plain text without a line end behind it; of "" the
    sections, a line each.

    ``data.train.0.path`` and ``evaluation.suites.aime.file`` are found too. Raises ConfigError that names the nearest
    keys where there is no such key or section.
    """
    sections = config_reference(root)
    if not name:
        return "\n".join(f"{section.key}: {section.description.splitlines()[0]}" for section in sections)
    pattern = _as_named(name)
    found = [section for section in sections if _is_in(section.key, pattern)]
    if found:
        return "\n\n".join(_section_text(section) for section in found)
    for section in sections:
        for key in section.keys:
            if key.key == pattern:
                return _key_text(key)
    known = [section.key for section in sections] + [key.key for section in sections for key in section.keys]
    ends = [key for key in known if key.endswith(f".{name.rpartition('.')[2]}")]
    near = ends or difflib.get_close_matches(name, known, n=3) or [key for key in known if "." not in key]
    raise ConfigError(f"{name}: no such config key or section; known are for instance {', '.join(near)}")


def reference_markdown(root: type[BaseModel] = TrainConfig) -> str:
    """The reference as a Markdown page without its title: a heading per section, a table of its keys."""
    parts = []
    for section in config_reference(root):
        if not section.keys:
            continue
        lines = [f"## {section.key}", "", section.description, ""]
        lines += [
            "| key | type | default | what it says | when to change it | on resume |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(key) for key in section.keys]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _sections(model: type[BaseModel], key: str, outer: KeyFacts) -> Iterator[SectionReference]:
    keys, inner = [], []
    for name, field in model.model_fields.items():
        dotted, facts = f"{key}.{name}" if key else name, outer.with_nearer(field.metadata)
        below = _section_below(field.annotation)
        if below is None or below[1]:  # a section within is no key; a list or mapping of sections is both
            keys.append(_key(model, name, field, dotted, facts))
        if below is not None:
            inner.append((below[0], f"{dotted}{below[1]}", facts))
    if key:
        yield SectionReference(key, _paragraphs(model.__doc__ or ""), tuple(keys))
    for section, dotted, facts in inner:
        yield from _sections(section, dotted, facts)


def _section_below(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """(section, what stands for one of several) of a key that holds a section, or a list or mapping of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for suffix, part in ((".NAME", 1), (".N", 0)):
        parts = get_args(annotation) if get_origin(annotation) is (dict if part else tuple) else ()
        if len(parts) > part and isinstance(parts[part], type) and issubclass(parts[part], BaseModel):
            return parts[part], suffix
    return None


def _key(model: type[BaseModel], name: str, field: FieldInfo, dotted: str, facts: KeyFacts) -> KeyReference:
    return KeyReference(
        key=dotted,
        type=_type_text(field.annotation, field.metadata),
        default=_default_text(field),
        unit=_unit(name) if _is_number(field.annotation) else "",
        description=_sentence(field.description or ""),
        when_to_change=WHEN_TO_CHANGE.get(model, {}).get(name, ""),
        facts=facts,
    )


def _type_text(annotation: Any, metadata: Sequence[Any]) -> str:
    bounds = [
        f"{sign} {_number(getattr(part, attribute))}"
        for part in metadata
        for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if getattr(part, attribute, None) is not None
    ]
    kinds = _plain_type(annotation).split(" | ") if get_origin(annotation) is not Literal else []
    without_null = " | ".join(kind for kind in kinds if kind != "null") or _plain_type(annotation)
    return " | ".join([" ".join([without_null, *bounds]), *(["null"] if "null" in kinds else [])])


def _plain_type(annotation: Any) -> str:
    if annotation is Any:
        return "any value"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain_type(parts[0])
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " | ".join(_plain_type(part) for part in parts)
    if origin is tuple and len(parts) > 1 and parts[1] is not Ellipsis:
        return f"[{', '.join(_plain_type(part) for part in parts)}]"
    if origin is tuple:
        return f"list of {_plain_type(parts[0])}"
    if origin is dict:
        return f"mapping of {_plain_type(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {str: "text", int: "integer", float: "number", bool: "true | false", Path: "path", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, bool) or default is None:
        return {True: "true", False: "false", None: "null"}[default]
    if isinstance(default, (int, float)):
        return _number(default)
    if isinstance(default, (tuple, dict)) and not default:
        return "[]" if isinstance(default, tuple) else "{}"
    value = str(default) if isinstance(default, Path) else list(default) if isinstance(default, tuple) else default
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _number(value: float) -> str:
    """As it may stand in a config; what a round number of bytes amounts to is said beside it."""
    for power, name in ((30, "GiB"), (20, "MiB")):
        if isinstance(value, int) and value >= 1 << 26 and value % (1 << power) == 0:
            return f"{value} ({value >> power} {name})"
    return str(value) if isinstance(value, int) else f"{value:g}"


def _is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(_is_number(part) for part in get_args(annotation))


def _unit(name: str) -> str:
    return next((unit for pattern, unit in _UNITS if re.search(pattern, name)), "")


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _paragraphs(docstring: str) -> str:
    """A docstring's paragraphs, each on one line."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.strip().split("\n\n"))


def _as_named(name: str) -> str:
    """The name with N and NAME for the places and names of one's own."""
    name = re.sub(r"^(data\.(?:train|evaluation))\.\d+", r"\1.N", name)
    return re.sub(r"^(evaluation\.suites)\.[^.]+", r"\1.NAME", name)


def _is_in(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _key_text(key: KeyReference) -> str:
    unit = f", in {key.unit}" if key.unit else ""
    lines = [f"{key.key}: {key.type}{unit}; default {key.default}", f"  {key.description}"]
    lines.append(f"  When to change it: {key.when_to_change}")
    lines.append(f"  A resumed run may have another value: {key.resume}.")
    if Fact.SHARED in key.facts.others:
        lines.append("  All runs of a comparison have the same value.")
    return "\n".join(lines)


def _section_text(section: SectionReference) -> str:
    body = [_key_text(key) for key in section.keys]
    return "\n".join([f"[{section.key}]  {section.description}", *body])


def _row(key: KeyReference) -> str:
    kind = f"{key.type}, {key.unit}" if key.unit else key.type
    cells = (f"`{key.name}`", kind, f"`{key.default}`", key.description, key.when_to_change, key.resume)
    return "| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells) + " |"
