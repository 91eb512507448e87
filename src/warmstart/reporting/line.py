"""Shares on a line from 0 to 100: a dot with its interval, and marks to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.reporting.svg import at, fluid, label, tag

ROW = 24  # px of height of one label
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """A share that was measured, with its interval; drawn above the line."""

    words: str
    value: float
    low: float
    high: float
    is_main: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """A share to compare with; drawn below the line."""

    words: str
    value: float


def on_a_line(
    measures: Sequence[Measure], marks: Sequence[Mark], *, name: str, title: str, about: str
) -> str:
    """Measures above a line of 0 to 100 %, marks below it, each label in a row of its own."""
    axis = ROW * len(measures) + 18
    height = axis + 24 + ROW * len(marks)
    body = [tag("line", x1=at(0), x2=at(1), y1=axis, y2=axis, class_="axis")]
    body += [_tick(share, axis) for share in TICKS]
    # The main one lies on top of all, and its label nearest to the line.
    for row, mark in enumerate(marks):
        body.append(_mark(mark, axis, axis + 40 + ROW * row))
    for row, measure in enumerate(measures):
        body.append(_measure(measure, axis, 16 + ROW * row))
    return fluid("".join(body), name=name, title=title, about=about, height=height)


def interval_bar(value: float, low: float, high: float, mark: float | None = None) -> str:
    """A small picture of one share with its interval, for a row of a table that says it too."""
    body = tag("line", x1=at(0), x2=at(1), y1=8, y2=8, class_="rule")
    if mark is not None:
        body += tag("line", x1=at(mark), x2=at(mark), y1=1, y2=15, class_="axis")
    body += tag("line", x1=at(low), x2=at(high), y1=8, y2=8, class_="range")
    body += tag("circle", cx=at(value), cy=8, r=4, class_="dot")
    return f'<svg class="spark" aria-hidden="true" width="100%" height="16">{body}</svg>'


def anchor_of(share: float) -> str:
    """Where a label at this place must begin so that it stays inside.

    >>> anchor_of(0.1), anchor_of(0.5), anchor_of(0.9)
    ('start', 'middle', 'end')
    """
    return "start" if share < 0.3 else "end" if share > 0.7 else "middle"


def _tick(share: float, axis: float) -> str:
    anchor = "start" if share == 0 else "end" if share == 1 else "middle"
    line = tag("line", x1=at(share), x2=at(share), y1=axis - 4, y2=axis + 4, class_="axis")
    words = f"{100 * share:.0f}" + (" %" if share == 1 else "")
    return line + label(at(share), axis + 18, words, "soft small", anchor)


def _measure(measure: Measure, axis: float, row: float) -> str:
    x = at(measure.value)
    line = tag("line", x1=x, x2=x, y1=row + 4, y2=axis, class_="lead")
    class_ = "range" if measure.is_main else "range thin"
    band = tag("line", x1=at(measure.low), x2=at(measure.high), y1=axis, y2=axis, class_=class_)
    dot = tag(
        "circle",
        cx=x,
        cy=axis,
        r=7 if measure.is_main else 5,
        class_="dot" if measure.is_main else "ring",
    )
    words = label(
        x,
        row,
        measure.words,
        "strong halo" if measure.is_main else "halo",
        anchor_of(measure.value),
    )
    return line + band + dot + words


def _mark(mark: Mark, axis: float, row: float) -> str:
    x = at(mark.value)
    line = tag("line", x1=x, x2=x, y1=axis, y2=row - 13, class_="lead")
    peg = tag("line", x1=x, x2=x, y1=axis - 8, y2=axis + 8, class_="peg")
    return line + peg + label(x, row, mark.words, "soft", anchor_of(mark.value))
