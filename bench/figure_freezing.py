"""docs/figures/freezing.svg: what moves in layers that were frozen, by recipe."""

from __future__ import annotations

from bench.drawing import box, picture, text
from bench.tables import rows

WIDTH, LEFT, BAR, GAP, ROW, TOP = 860, 470, 150, 40, 26, 76


def svg() -> str:
    """Two bars a recipe: the shares of weights and of statistics that moved."""
    result = [row for row in rows("freezing") if "frozen_weights" in row]
    result.sort(key=lambda row: (-row["frozen_weights_moved"], -row["frozen_statistics_moved"]))
    drawn = [
        text(16, 26, "What changes in layers that were frozen", "ink", 'font-weight="bold"'),
        text(16, 46, "resnet18, all layers but the last frozen, three updates", "faint"),
        text(LEFT, 66, "weights", "faint"),
        text(LEFT + BAR + GAP, 66, "BatchNorm statistics", "faint"),
    ]
    for number, row in enumerate(result):
        y = TOP + ROW * number
        name = f"{row['library']} {row['version'].partition('+')[0]}"
        drawn.append(text(16, y + 15, row["recipe"]))
        drawn.append(text(LEFT - 12, y + 15, name, "faint", 'text-anchor="end" font-size="11"'))
        drawn += _bar(LEFT, y, row["frozen_weights_moved"], row["frozen_weights"])
        second = LEFT + BAR + GAP
        drawn += _bar(second, y, row["frozen_statistics_moved"], row["frozen_statistics"])
    height = TOP + ROW * len(result) + 16
    return picture(WIDTH, height, "What changes in frozen layers, by recipe", drawn)


def _bar(x: int, y: int, moved: int, total: int) -> list[str]:
    """A rail, filled as far as tensors moved, and the count; a word where none did."""
    if not moved:
        return [text(x, y + 15, "none", "stays", 'font-weight="bold"')]
    return [
        box(x, y + 6, 100, 10, "rail"),
        box(x, y + 6, round(100 * moved / total, 1), 10, "moved"),
        text(x + 108, y + 15, f"{moved} of {total}"),
    ]
