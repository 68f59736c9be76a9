"""What `make docs` adds to the pages of docs/: those that lie in the project's root, and what is made of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from gps_ray.config.reference import reference_markdown

ROOT = Path(__file__).parents[2]
# Pages of the root, and what they are called on the site.
ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
KEYS_GO_HERE = "<!-- every config key -->"
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """The root's pages beside those of docs/."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=as_page(name, (ROOT / name).read_text())))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Config keys as the code has them, and links that leave docs/ as the site has them."""
    if KEYS_GO_HERE in markdown:
        return markdown.replace(KEYS_GO_HERE, reference_markdown())
    return _LINK.sub(lambda link: f"]({_on_site(link[1].removeprefix('../'))})", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """A name for the style of the one page whose tables have six columns."""
    return f'<div class="config-keys">{html}</div>' if page.file.src_uri == "config_keys.md" else html


def on_post_page(output: str, page: Any, config: Any) -> str:
    return _without_network(output)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    return _without_network(output_content)


def _without_network(html: str) -> str:
    """The theme's search in pages that were opened as files wants a script from elsewhere; ours does the same."""
    return html.replace("https://unpkg.com/iframe-worker/shim", "site/file_worker.js")


def as_page(name: str, text: str) -> str:
    """A page of the root with links as they are from within docs/; what is no page becomes its name."""
    text = _LINK.sub(lambda link: f"]({_on_site(link[1].removeprefix('docs/'))})", text)
    return re.sub(r"\[([^\]]+)\]\(LICENSE\)", r"\1", text)


def _on_site(target: str) -> str:
    name, sign, place = target.partition("#")
    return ROOT_PAGES.get(name, name) + sign + place
