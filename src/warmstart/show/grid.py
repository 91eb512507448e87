"""Small pictures side by side, each row under its title: what a network sees, at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from warmstart.delivery.numbers import printable

SIDE = 112  # px of a tile
GAP, TITLE = 6, 16  # px between tiles, and of the line above them
MOST_WIDE = 8  # tiles beside each other
PAPER, INK = (255, 255, 255), (32, 32, 32)


def grid(cells: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Cells of as many tiles each, a title above every cell, as one RGB picture.

    Cells stand beside each other as long as there is room, then below.

    >>> tile = Image.new("L", (32, 16))
    >>> grid([[tile, tile]] * 5, ["cat"] * 5).size
    (950, 274)
    """
    depth = max((len(cell) for cell in cells), default=1)
    across = max(min(MOST_WIDE // depth, len(cells)), 1)
    down = max(math.ceil(len(cells) / across), 1)
    wide, high = depth * (SIDE + GAP), TITLE + SIDE + GAP
    paper = Image.new("RGB", (across * wide - GAP + 2 * GAP, down * high + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, (cell, title) in enumerate(zip(cells, titles, strict=True)):
        left, top = GAP + number % across * wide, GAP + number // across * high
        pen.text((left, top), _fitted(pen, printable(title), depth * SIDE), fill=INK)
        for place, tile in enumerate(cell):
            shown = _in_square(tile)
            x = left + place * (SIDE + GAP) + (SIDE - shown.width) // 2
            paper.paste(shown, (x, top + TITLE + (SIDE - shown.height) // 2))
    return paper


def _in_square(tile: Image.Image) -> Image.Image:
    """As large as a tile may be; small ones keep their pixels visible."""
    scale = SIDE / max(tile.size)
    size = (max(round(tile.width * scale), 1), max(round(tile.height * scale), 1))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return tile.convert("RGB").resize(size, how)


def _fitted(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, cut where it would run into the next cell."""
    if pen.textlength(text) <= width:
        return text
    while text and pen.textlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
