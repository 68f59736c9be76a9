"""The documentation's site: every page is in its navigation, and what its hooks put in is whole.

The site itself is built by ``make docs``; here where mkdocs is installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gps_ray

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def _pages(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [page for each in entries for page in _pages(each)]  # type: ignore[attr-defined]


def test_every_page_is_in_the_navigation_once() -> None:
    pages = _pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    of_the_root = {"index.md", "architecture.md", "contributing.md", "security.md"}
    assert sorted(pages) == sorted({path.name for path in DOCS.glob("*.md")} | of_the_root)


def test_the_api_page_has_every_public_name() -> None:
    shown = re.findall(r"^::: gps_ray\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(gps_ray.__all__)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs comes with the extra docs")
def test_the_site_is_built_without_a_warning_and_takes_nothing_from_the_network(tmp_path: Path) -> None:
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    for page in site.rglob("*.html"):
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', page.read_text()), page.name
    keys = (site / "config_keys.html").read_text()
    assert all(f"<code>{key}</code>" in keys for key in ("max_policy_lag", "kv_cache_memory_bytes", "num_prompts"))
    home = (site / "index.html").read_text()
    assert 'href="start.html"' in home
    assert 'href="architecture.html"' in home
    assert "num_tried" in (site / "api.html").read_text()
