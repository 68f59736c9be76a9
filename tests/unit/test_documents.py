"""What the Markdown files name is there: files, folders, links, and places within a page."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

from gps_ray.base.types import RolloutStatus
from gps_ray.config import TrainConfig, load_config
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.registry import load_task

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


def test_the_files_that_the_architecture_names_within_the_library_are_there() -> None:
    """There a room's file is named without the library in front: `loop/training.py`."""
    named = re.findall(r"`(\w+(?:/\w+)*/\w+\.py)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert "loop/training.py" in named
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "gps_ray" / name).exists()] == []


def test_the_documents_name_enough_to_be_looked_at() -> None:
    """The pattern finds the kinds of path that are written; one that found nothing would let all pass."""
    named = [path for name in ("README.md", "docs/training.md") for path in _PATH.findall((ROOT / name).read_text())]
    assert {"configs/countdown.yaml", "docs/comparison.md", "docs/loop.svg", "tests/faults/"} <= set(named)


def _block(text: str, first_line: str) -> str:
    """The indented code of a page that begins with a line."""
    begin = text.index(f"    {first_line}")
    return textwrap.dedent(re.split(r"\n(?=\S)", text[begin:])[0])


def test_the_readmes_data_and_verifier_are_taken_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exec(_block(readme, "import pyarrow as pa"), {})  # noqa: S102
    (tmp_path / "my_sums.py").write_text(_block(readme, "def reward("))
    overrides = re.findall(r"[\w.]+=\S+", _block(readme, "python -m jobs.train run.directory"))
    assert len(overrides) == 11
    config = load_config(TrainConfig, None, overrides)
    data = load_data(config.data, 10)
    assert (len(data.pool), len(data.evaluation)) == (80, 20)
    prompt = data.pool[0]
    task = load_task(config.data.task, config.data.task_options)
    assert task.verify(prompt, "It is 7\n") == (1.0, RolloutStatus.RIGHT)
    assert task.verify(prompt, "8") == (0.0, RolloutStatus.WRONG)
    assert task.verify(prompt, "") == (0.0, RolloutStatus.WRONG)


def _messages() -> str:
    """All texts of the program, with a space for each value that is put in."""
    texts = []
    for path in (file for package in ("gps_ray", "actors", "jobs") for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else " " for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return " ".join("\n".join([*texts, (ROOT / "Makefile").read_text()]).split())


def test_troubleshooting_quotes_what_is_said() -> None:
    """Of each message the parts between the dots, in the words of the program."""
    first_cells = re.findall(r"^\| ([^|]*) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [quote for cell in first_cells for quote in re.findall(r"`([^`]+)`", cell)]
    parts = [part.strip(" (),:") for quote in quoted for part in quote.split("...")]
    assert len(parts) > 40
    messages = _messages()
    assert [part for part in parts if part not in messages and part != "No available agent"] == []  # that one is Ray's


def test_every_row_of_the_reliability_table_names_a_test_that_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) >= 15
    for file, name in named:
        texts = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert any(re.search(rf"^(?:def|class) {name}\b", text, re.MULTILINE) for text in texts), f"{file}::{name}"
