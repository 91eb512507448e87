"""What is taken for what: a square of classes, darker where more images are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmstart.delivery.figures.svg import escaped, fixed, label, short, tag

CELL = 30.0
SMALL_CELL, SMALL_NAMES = 9.0, 74.0  # units; the latter left of the square, and above it
_LETTERS, _LETTER = 14, 7.4
PALEST, DARKEST = 0.1, 0.48  # opacity: figures stay legible on it, in light and dark


@dataclass(frozen=True, slots=True)
class Table:
    """Counts by (true class, answer); `rows` and `columns` give the order and the names."""

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Mapping[tuple[str, str], int]


def matrix(table: Table, *, name: str, title: str, about: str) -> str:
    """Cells with their counts; the shade is the share of a class's own images."""
    longest = max((len(name) for name in (*table.rows, *table.columns)), default=0)
    room = 10 + _LETTER * min(longest, _LETTERS)
    width = room + CELL * len(table.columns) + 4
    height = room + CELL * len(table.rows) + 4
    body = [_names(table, CELL, room, "")]
    for i, row in enumerate(table.rows):
        total = _total(table, row)
        for j, column in enumerate(table.columns):
            n = table.counts.get((row, column), 0)
            x, y = room + CELL * j, room + CELL * i
            body.append(_cell(x, y, CELL, row == column, n, total))
            if n:
                body.append(label(x + CELL / 2, y + CELL / 2 + 4, f"{n:,}", "small", "middle"))
    return fixed("".join(body), name=name, title=title, about=about, width=width, height=height)


def small_matrix(table: Table, *, name: str, title: str, about: str) -> str:
    """The same for many classes: no counts, no empty cells; what a cell means shows on it."""
    width = SMALL_NAMES + SMALL_CELL * len(table.columns) + 4
    height = SMALL_NAMES + SMALL_CELL * len(table.rows) + 4
    place = {column: j for j, column in enumerate(table.columns)}
    edge = SMALL_CELL * len(table.columns)
    body = [
        tag("rect", x=SMALL_NAMES, y=SMALL_NAMES, width=edge,
            height=SMALL_CELL * len(table.rows), class_="ground"),
        _names(table, SMALL_CELL, SMALL_NAMES, " tiny"),
    ]  # fmt: skip
    for i, row in enumerate(table.rows):
        total = _total(table, row)
        for (target, answer), n in table.counts.items():
            if target == row and answer in place:
                x, y = SMALL_NAMES + SMALL_CELL * place[answer], SMALL_NAMES + SMALL_CELL * i
                body.append(_cell(x, y, SMALL_CELL, row == answer, n, total))
    return fixed("".join(body), name=name, title=title, about=about, width=width, height=height)


def _total(table: Table, row: str) -> int:
    return max(sum(n for (target, _), n in table.counts.items() if target == row), 1)


def _names(table: Table, cell: float, room: float, class_: str) -> str:
    body = []
    for i, row in enumerate(table.rows):
        y = room + cell * (i + 0.5) + 3
        body.append(label(room - 5, y, short(row, _LETTERS), f"soft{class_}", "end"))
    for j, column in enumerate(table.columns):
        x = room + cell * (j + 0.5) + 3
        turned = tag(
            "text", escaped(short(column, _LETTERS)), class_=f"soft{class_}",
            transform=f"translate({x:.1f} {room - 5:.1f}) rotate(-90)",
        )  # fmt: skip
        body.append(turned)
    return "".join(body)


def _cell(x: float, y: float, side: float, is_right: bool, n: int, total: int) -> str:
    share = n / total
    opacity = f"{PALEST + (DARKEST - PALEST) * share:.2f}" if n else None
    class_ = ("hit" if is_right else "miss") if n else "ground"
    gap = 1.0 if side > 12 else 0.5
    return tag(
        "rect", x=x + gap / 2, y=y + gap / 2, width=side - gap, height=side - gap,
        class_=class_, fill_opacity=opacity,
    )  # fmt: skip
