"""What the Markdown files name is there: files, folders, links, and places within a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# A path from the project's root; `*` stands for any part of a name.
_PATH = re.compile(r"(?<![\w./-])(?:gps_ray|actors|jobs|configs|docs|tests|deploy)/[\w./*-]*[\w*/]")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _anchors(text: str) -> set[str]:
    """The places of a page, named as its headings are where Markdown is shown: lower case, words joined by hyphens."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_link_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    paths = [path for path in _PATH.findall(text) if not any(ROOT.glob(path.rstrip("/")))]
    assert not paths
    for target in _LINK.findall(text):
        if target.startswith(("http:", "https:")):
            continue
        name, _, place = target.partition("#")
        page = document.parent / name if name else document
        assert page.exists(), target
        assert not place or place in _anchors(page.read_text()), target


def test_the_readme_names_enough_to_be_looked_at() -> None:
    """The pattern finds the kinds of path that are written; one that found nothing would let all pass."""
    readme = _PATH.findall((ROOT / "README.md").read_text())
    assert {"configs/countdown.yaml", "docs/comparison.md", "docs/loop.svg", "tests/faults/"} <= set(readme)
