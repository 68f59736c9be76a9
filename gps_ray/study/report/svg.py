"""One look for all figures, and their way into the page as inline SVG.

Figures are built without pyplot (no global figure list) and saved with a fixed salt and no date, so the same run gives
the same bytes. Text stays text: it takes the page's font, can be searched and is read by screen readers.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

__all__ = ["GREY", "INK", "PALETTE", "RATE_MAP", "SHARE_MAP", "SIZES", "Panel", "colours", "panel"]

# Okabe and Ito's colours, told apart with every common kind of colour vision, without the yellow that white swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#24292f")
# For comparisons of more than seven; of the muted scheme by P. Tol (2021), those far enough from the seven above.
MORE_COLOURS = ("#882255", "#999933", "#332288", "#44AA99", "#8c6d5a", "#9aa5b1")
INK, GREY, GRID = "#24292f", "#6e7781", "#e6e9ec"

# Success rate: hard is vermillion, easy is blue, and the useful middle is pale.
RATE_MAP = LinearSegmentedColormap.from_list("rate", ["#C1440E", "#EFA98A", "#F7F4EE", "#8FBBDD", "#00558A"])
SHARE_MAP = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#B6DCCB", "#4FB08C", "#00694C"])

# (width, height) in inches for rows of four, three and two panels.
SIZES = {"small": (3.05, 2.2), "medium": (4.15, 2.9), "wide": (6.1, 2.9)}

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "gps-ray",
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels come from data sets: a "$" in one is no formula
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b4bac0",
    "axes.labelcolor": GREY,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


class Panel:
    """One figure under construction: ``figure`` is matplotlib's, ``svg`` the markup once the block is left."""

    def __init__(self, figure: Figure, description: str) -> None:
        self.figure = figure
        self.description = description
        self.svg = Markup("")

    def axes(self) -> Any:
        axes = self.figure.subplots()
        self.margins()
        return axes

    def margins(self, left: float = 0.48, right: float = 0.12, bottom: float = 0.42, top: float = 0.26) -> None:
        """Room around the axes in inches. Set by hand: a layout engine would draw each figure twice."""
        width, height = self.figure.get_size_inches()
        self.figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)


@contextmanager
def panel(description: str, size: str = "small", height: float | None = None) -> Iterator[Panel]:
    """Draw in the block; afterwards ``Panel.svg`` is inline SVG. ``description`` is what a screen reader says.

    ``size`` is a key of ``SIZES``: how many panels share a row of the page. Each has its own width, so that text ends
    up equally large in all of them. height is in inches.
    """
    width, usual_height = SIZES[size]
    with mpl.rc_context(_STYLE):
        result = Panel(Figure(figsize=(width, height or usual_height)), description)
        yield result
        result.svg = _inline(result)


def _inline(drawn: Panel) -> Markup:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # A label in a script that matplotlib's own font lacks: the browser has it, only the measured width is off.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        drawn.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Several figures share one page: ids get a prefix of their own, the size gives way to the space it has.
    prefix = "f" + hashlib.blake2b(svg.encode(errors="replace") + drawn.description.encode(), digest_size=4).hexdigest()
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{prefix}-', svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace('<style type="text/css">*{', '<style type="text/css">svg *{')
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    label = Markup.escape(drawn.description)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per name, by position; they repeat after thirteen."""
    every = PALETTE + MORE_COLOURS
    return {name: every[i % len(every)] for i, name in enumerate(names)}
