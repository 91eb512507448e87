"""docs/figures/drift.svg from the kept results: plain SVG, generated and never typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from bench import results

TARGET = Path(__file__).parents[1] / "docs" / "figures" / "drift.svg"
WIDTH, LEFT, BAR, GAP, ROW, TOP = 860, 470, 150, 40, 26, 76
STYLE = """
.card { fill: #ffffff } .ink { fill: #222222 } .faint { fill: #666666 }
.rail { fill: #e8e8e8 } .moved { fill: #c2410c } .stays { fill: #0b6e4f }
@media (prefers-color-scheme: dark) {
.card { fill: #16181c } .ink { fill: #ededed } .faint { fill: #a3a3a3 }
.rail { fill: #34373d } .moved { fill: #f58a4b } .stays { fill: #4cc38a }
}
"""


def main() -> None:
    """Draw two bars a recipe: the shares of weights and of statistics that moved."""
    rows = [row for row in results.read("drift")["rows"] if "frozen_weights" in row]
    rows.sort(key=lambda row: (-row["frozen_weights_moved"], -row["frozen_statistics_moved"]))
    height = TOP + ROW * len(rows) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" '
        'aria-label="What moves in frozen layers, by recipe">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" width="{WIDTH}" height="{height}"/>',
        _text(16, 26, "What moves in layers that were frozen", "ink", 'font-weight="bold"'),
        _text(16, 46, "resnet18, all layers but the last frozen, three steps", "faint"),
        _text(LEFT, 66, "weights", "faint"),
        _text(LEFT + BAR + GAP, 66, "BatchNorm statistics", "faint"),
    ]
    for number, row in enumerate(rows):
        y = TOP + ROW * number
        name = f"{row['library']} {row['version'].partition('+')[0]}"
        parts.append(_text(16, y + 15, row["recipe"], "ink"))
        parts.append(_text(LEFT - 12, y + 15, name, "faint", 'text-anchor="end" font-size="11"'))
        parts += _bar(LEFT, y, row["frozen_weights_moved"], row["frozen_weights"])
        second = LEFT + BAR + GAP
        parts += _bar(second, y, row["frozen_statistics_moved"], row["frozen_statistics"])
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _bar(x: int, y: int, moved: int, total: int) -> list[str]:
    """A rail, filled as far as tensors moved, and the count; a word where none did."""
    if not moved:
        return [_text(x, y + 15, "none", "stays", 'font-weight="bold"')]
    width = round(100 * moved / total, 1)
    return [
        f'<rect class="rail" x="{x}" y="{y + 6}" width="100" height="10" rx="2"/>',
        f'<rect class="moved" x="{x}" y="{y + 6}" width="{width}" height="10" rx="2"/>',
        _text(x + 108, y + 15, f"{moved} of {total}", "ink"),
    ]


def _text(x: float, y: float, words: Any, kind: str, more: str = "") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" {more}>{escape(str(words))}</text>'


if __name__ == "__main__":
    main()
