"""The code blocks of the Markdown pages, fenced and indented, with what stands in a comment before them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CodeBlock", "code_blocks"]

_MARK = re.compile(r"<!-- ([a-z ]+): (.+) -->")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBlock:
    """``language`` is "" where none is said; ``marks`` are those of the comments right before: {"needs": "cluster"}."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.page.stem}:{self.line}"


def code_blocks(page: Path) -> Iterator[CodeBlock]:
    """In the order of the page. Indented code begins behind an empty line, with four spaces."""
    lines = page.read_text().split("\n")
    number, marks = 0, dict[str, str]()
    while number < len(lines):
        line = lines[number]
        begin = number
        if line.startswith("```"):
            number = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
            text = "\n".join(lines[begin + 1 : number])
            yield CodeBlock(page=page, line=begin + 1, language=line[3:].strip(), text=text, marks=marks)
        elif line.startswith("    ") and (begin == 0 or not lines[begin - 1].strip()):
            while number + 1 < len(lines) and (lines[number + 1].startswith("    ") or not lines[number + 1].strip()):
                number += 1
            text = textwrap.dedent("\n".join(lines[begin : number + 1])).strip("\n")
            yield CodeBlock(page=page, line=begin + 1, language="", text=text, marks=marks)
        mark = _MARK.fullmatch(line)
        marks = marks | {mark[1]: mark[2]} if mark else marks if not line.strip() else {}
        number += 1
