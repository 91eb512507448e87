"""Amounts as bars, lying (a row each) or standing (one beside the other)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.records.judged import CertaintyBin
from warmstart.reporting.chart import Axes, axes, chart
from warmstart.reporting.svg import digits, fixed, fluid, label, short, tag

ROW = 36
WIDTH, HEIGHT = 360.0, 170.0
_LEFT, _BOTTOM, _TOP = 34.0, 26.0, 8.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One amount: its name, its length as a share of the longest, what stands at its end."""

    words: str
    share: float
    says: str
    class_: str = "bar"


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a whole."""

    words: str
    share: float
    class_: str


def lying(bars: Sequence[Bar], *, name: str, title: str, about: str) -> str:
    """Names and figures above their bars, so that long names have room on narrow screens."""
    body = []
    for row, bar in enumerate(bars):
        y = ROW * row
        body.append(label(0, y + 14, short(bar.words, 34), ""))
        body.append(label("100%", y + 14, bar.says, "soft", "end"))
        body.append(tag("rect", x=0, y=y + 20, width="100%", height=8, rx=2, class_="ground"))
        width = f"{digits(100 * min(max(bar.share, 0.0), 1.0))}%"
        body.append(tag("rect", x=0, y=y + 20, width=width, height=8, rx=2, class_=bar.class_))
    height = ROW * len(bars)
    return fluid("".join(body), name=name, title=title, about=about, height=height)


def stacked(pieces: Sequence[Piece], *, name: str, title: str, about: str) -> str:
    """Pieces of a whole in one bar; the legend stands beside it in the page."""
    body, x = [], 0.0
    for piece in pieces:
        body.append(
            tag(
                "rect",
                tag("title", piece.words),
                x=f"{digits(100 * x)}%",
                y=0,
                width=f"{digits(100 * piece.share)}%",
                height=26,
                class_=piece.class_,
            )
        )
        x += piece.share
    return fluid("".join(body), name=name, title=title, about=about, height=26)


def standing(
    values: Sequence[float],
    *,
    best: int | None = None,
    first: str,
    last: str,
    unit: str = "%",
    mark: float | None = None,
    name: str,
    title: str,
    about: str,
) -> str:
    """Values from left to right; shares from 0 to 1 with "%", else counts up to the largest.

    `best` is the place of the one that stands out, `mark` a line across; `first` and `last`
    name both ends.
    """
    top = 1.0 if unit == "%" else max(max(values), 1.0)
    room, floor = WIDTH - _LEFT - 4, HEIGHT - _BOTTOM
    body = [_level(share, top, unit) for share in (0.0, 0.5, 1.0)]
    wide = room / len(values)
    for place, value in enumerate(values):
        high = (floor - _TOP) * value / top
        class_ = "bar" if place == best or best is None else "bar pale"
        body.append(
            tag(
                "rect",
                x=_LEFT + wide * place + wide * 0.1,
                y=floor - high,
                width=wide * 0.8,
                height=high,
                class_=class_,
            )
        )
    if mark is not None:
        y = floor - (floor - _TOP) * mark / top
        body.append(tag("line", x1=_LEFT, x2=WIDTH - 4, y1=y, y2=y, class_="peg thin"))
    body.append(label(_LEFT, HEIGHT - 8, first, "soft"))
    body.append(label(WIDTH - 4, HEIGHT - 8, last, "soft", "end"))
    return fixed("".join(body), name=name, title=title, about=about, width=WIDTH, height=HEIGHT)


def _level(share: float, top: float, unit: str) -> str:
    y = HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * share
    words = f"{100 * share:.0f} %" if unit == "%" else digits(round(top * share, 1))
    line = tag("line", x1=_LEFT, x2=WIDTH - 4, y1=y, y2=y, class_="rule")
    return line + label(_LEFT - 4, y + 4, words, "soft small", "end")


# ---- How sure the model is against how often it is right.


_TICKS = ((0.0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1.0, "100 %"))


def diagram(bins: Sequence[CertaintyBin], *, name: str, title: str, about: str) -> str:
    """Dots with intervals; on the slope the model is as sure as it is right.

    The more images stand behind a dot, the larger it is.
    """
    frame = axes((0.0, 1.0), (0.0, 1.0), x_words="how sure it is", x_ticks=_TICKS, y_ticks=_TICKS)
    slope = tag(
        "line",
        x1=frame.x.at(0),
        y1=frame.y.at(0),
        x2=frame.x.at(1),
        y2=frame.y.at(1),
        class_="peg thin",
    )
    most = max((one.n for one in bins), default=1)
    dots = "".join(_dot(frame, one, most) for one in bins)
    return chart(frame, (), slope + dots, name=name, title=title, about=about)


def _dot(frame: Axes, one: CertaintyBin, most: int) -> str:
    x, y = frame.x.at(one.confidence), frame.y.at(one.accuracy)
    low, high = frame.y.at(one.low), frame.y.at(one.high)
    whisker = tag("line", x1=x, x2=x, y1=low, y2=high, class_="range thin")
    radius = 3.0 + 4.0 * (one.n / most) ** 0.5
    return whisker + tag("circle", cx=x, cy=y, r=radius, class_="dot")
