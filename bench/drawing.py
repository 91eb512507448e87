"""Plain SVG that reads on light and dark paper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.sax.saxutils import escape, quoteattr

STYLE = """
.card { fill: #ffffff } .ink { fill: #222222 } .faint { fill: #666666 }
.rail { fill: #e8e8e8 } .line { stroke: #e5e5e5 } .edge { stroke: #9a9a9a; fill: none }
.moved { fill: #c2410c } .stays { fill: #0b6e4f } .plain { fill: #b0b0b0 }
.join { stroke: #8fbfae } .frozen { fill: #56798f } .tuned { fill: #bf5216 }
.new { fill: #0b6e4f } .fresh { fill: #8a5bb5 } .on { fill: #ffffff }
@media (prefers-color-scheme: dark) {
.card { fill: #16181c } .ink { fill: #ededed } .faint { fill: #a3a3a3 }
.rail { fill: #34373d } .line { stroke: #34373d } .edge { stroke: #7d838c; fill: none }
.moved { fill: #f58a4b } .stays { fill: #4cc38a } .plain { fill: #6d7178 }
.join { stroke: #2f6b54 } .frozen { fill: #4d6b80 } .tuned { fill: #bf5216 }
.new { fill: #1f7d58 } .fresh { fill: #8a63ad } .on { fill: #ffffff }
}
"""


def picture(width: int, height: int, about: str, blocks: Iterable[str]) -> str:
    """A whole SVG with a card behind it; `about` is read to those who do not see it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="system-ui, sans-serif" font-size="13" role="img" '
            f"aria-label={quoteattr(about)}>",
            f"<style>{STYLE}</style>",
            f'<rect class="card" width="{width}" height="{height}"/>',
            *blocks,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: Any, kind: str = "ink", more: str = "") -> str:
    """One line of text; `kind` is a class of the style."""
    return f'<text class="{kind}" x="{x}" y="{y}" {more}>{escape(str(words))}</text>'


def dot(x: float, y: float, kind: str) -> str:
    """A mark."""
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="6"/>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A filled box with soft corners."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "line", wide: int = 1) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke-width="{wide}"/>'
