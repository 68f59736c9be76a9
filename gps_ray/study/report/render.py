"""From values to a self-contained HTML page.

Everything a policy wrote is hostile text: templates escape by default, characters that could reorder or hide text are
shown as escapes, and the page's own content policy forbids scripts and any other resource.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gps_ray.base.errors import DataError

__all__ = ["USEFUL_STEPS", "USEFUL_WHAT", "ReportSection", "Row", "render", "templates", "visible"]

MAX_CHARACTERS = 1200
USEFUL_WHAT = "Share of groups with right and wrong responses: only comparing these teaches what is right."
USEFUL_STEPS = "Pale: each step; strong: mean of ten steps."


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures side by side, all of one ``size`` of ``gps_ray.study.report.svg.SIZES``."""

    panels: Sequence[Markup]
    size: str = "small"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSection:
    """A part of the page: what it shows, how to read it, what stands there when there is nothing."""

    anchor: str
    title: str
    how: str
    rows: Sequence[Row]
    empty: str = "Nothing to show yet."


def visible(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Text with every character that does not print (control, bidi override, lone surrogate) as its escape.

    New lines and tabs stay. Longer texts are cut, and say by how much.
    """
    shown = "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text[:limit]
    )
    return shown + (f" … ({len(text) - limit:,} more characters)" if len(text) > limit else "")


def templates(*more: Path) -> Environment:
    """The templates of this folder, and those of ``more`` folders. What they are given is escaped."""
    return Environment(
        loader=FileSystemLoader([*more, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, out: Path, values: Mapping[str, Any]) -> Path:
    text = templates().get_template(template).render(values)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_name(out.name + ".tmp")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, out)  # whoever has the page open never sees half of it
    except OSError as error:
        raise DataError(f"{out}: cannot write the report: {error.strerror}; choose another place (--out)") from error
    return out
