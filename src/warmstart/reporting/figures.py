"""Amounts as bars, lying (a row each) or standing (one beside the other)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.records.comparison import ConfidenceBin
from warmstart.reporting.html import at, digits, fixed, fluid, label, short, tag

# ---- Curves over a number: what a training did, what more examples would bring.


CHART_WIDTH, CHART_HEIGHT = 360.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 8.0, 12.0, 34.0
MOST = 160  # points of a curve that are drawn; more would only make the file larger

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """Points from left to right, drawn as a line in the style of a class."""

    points: Sequence[Point]
    class_: str = "curve"
    has_dots: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places: `low` lies at `start`, `high` at `stop`."""

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The place of a value; those outside lie at the ends.

        >>> Scale(0, 10, 100, 200).at(5), Scale(1, 100, 0, 2, True).at(10)
        (150.0, 1.0)
        """
        low, high, value = (self._own(x) for x in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + (self.stop - self.start) * min(max(share, 0.0), 1.0)

    def _own(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.is_log else value


@dataclass(frozen=True, slots=True)
class Axes:
    """A frame for curves, with what its ticks say."""

    x: Scale
    y: Scale
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_words: str


def axes(
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    x_words: str,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    is_log: bool = False,
) -> Axes:
    """A frame from the least to the largest values."""
    across = Scale(*x, LEFT, CHART_WIDTH - RIGHT, is_log)
    return Axes(across, Scale(*y, CHART_HEIGHT - BOTTOM, TOP), x_ticks, y_ticks, x_words)


def chart(
    frame: Axes, curves: Sequence[Curve], extra: str = "", *, name: str, title: str, about: str
) -> str:
    """Curves in their frame; `extra` is drawn beneath them (bands, lines)."""
    body = [_frame(frame), extra, *(_curve(frame, curve) for curve in curves)]
    return fixed(
        "".join(body), name=name, title=title, about=about, width=CHART_WIDTH, height=CHART_HEIGHT
    )


def band(frame: Axes, points: Sequence[tuple[float, float, float]]) -> str:
    """The room between a low and a high over x: (x, low, high)."""
    there = [f"{_xy(frame, (x, low))}" for x, low, _ in points]
    back = [f"{_xy(frame, (x, high))}" for x, _, high in reversed(points)]
    return tag("polygon", points=" ".join([*there, *back]), class_="band")


def upright(frame: Axes, x: float, words: str, class_: str = "peg") -> str:
    """A line from top to bottom at x, with words at its head."""
    place = frame.x.at(x)
    line = tag("line", x1=place, x2=place, y1=TOP, y2=CHART_HEIGHT - BOTTOM, class_=class_)
    is_right = place > CHART_WIDTH / 2
    shift = -4 if is_right else 4
    return line + label(place + shift, TOP + 9, words, "soft small", "end" if is_right else "start")


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most so many points, each the mean of its neighbours; the ends of x stay.

    >>> thinned([(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0)], 2)
    [(1.5, 2.0), (3.5, 6.0)]
    """
    if len(points) <= most:
        return list(points)
    found = []
    for number in range(most):
        start, stop = len(points) * number // most, len(points) * (number + 1) // most
        some = points[start:stop]
        found.append((sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)))
    return found


def steps_to(high: float, n: int = 4) -> list[float]:
    """Round values from 0 to about `high`.

    >>> steps_to(950), steps_to(2.3)
    ([0.0, 250.0, 500.0, 750.0], [0.0, 1.0, 2.0])
    """
    if high <= 0:
        return [0.0]
    rough = high / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough * 0.9)
    return [step * k for k in range(int(high / step + 1e-9) + 1)]


def _frame(frame: Axes) -> str:
    body = []
    for value, words in frame.y_ticks:
        y = frame.y.at(value)
        body.append(tag("line", x1=LEFT, x2=CHART_WIDTH - RIGHT, y1=y, y2=y, class_="rule"))
        body.append(label(LEFT - 5, y + 4, words, "soft small", "end"))
    for value, words in frame.x_ticks:
        x = frame.x.at(value)
        anchor = "end" if x > CHART_WIDTH - 20 else "middle"
        body.append(
            tag(
                "line",
                x1=x,
                x2=x,
                y1=CHART_HEIGHT - BOTTOM,
                y2=CHART_HEIGHT - BOTTOM + 4,
                class_="axis",
            )
        )
        body.append(label(x, CHART_HEIGHT - BOTTOM + 15, words, "soft small", anchor))
    floor = CHART_HEIGHT - BOTTOM
    body.append(tag("line", x1=LEFT, x2=CHART_WIDTH - RIGHT, y1=floor, y2=floor, class_="axis"))
    body.append(
        label((LEFT + CHART_WIDTH - RIGHT) / 2, CHART_HEIGHT - 4, frame.x_words, "soft", "middle")
    )
    return "".join(body)


def _curve(frame: Axes, curve: Curve) -> str:
    places = [_xy(frame, point) for point in curve.points]
    if not places:
        return ""
    line = tag("polyline", points=" ".join(places), class_=curve.class_)
    if not curve.has_dots:
        return line
    dots = (
        tag(
            "circle",
            cx=frame.x.at(x),
            cy=frame.y.at(y),
            r=3.5,
            class_="ring" if "base" in curve.class_ else "dot",
        )
        for x, y in curve.points
    )
    return line + "".join(dots)


def _xy(frame: Axes, point: Point) -> str:
    return f"{digits(frame.x.at(point[0]))},{digits(frame.y.at(point[1]))}"


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
class BarPiece:
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


def stacked(pieces: Sequence[BarPiece], *, name: str, title: str, about: str) -> str:
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
    space, floor = WIDTH - _LEFT - 4, HEIGHT - _BOTTOM
    body = [_level(share, top, unit) for share in (0.0, 0.5, 1.0)]
    wide = space / len(values)
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


def diagram(bins: Sequence[ConfidenceBin], *, name: str, title: str, about: str) -> str:
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


def _dot(frame: Axes, one: ConfidenceBin, most: int) -> str:
    x, y = frame.x.at(one.confidence), frame.y.at(one.accuracy)
    low, high = frame.y.at(one.low), frame.y.at(one.high)
    whisker = tag("line", x1=x, x2=x, y1=low, y2=high, class_="range thin")
    radius = 3.0 + 4.0 * (one.n / most) ** 0.5
    return whisker + tag("circle", cx=x, cy=y, r=radius, class_="dot")


# ---- Shares on a line from 0 to 100: a dot with its interval, and marks to compare it with.


LINE_ROW = 24  # px of height of one label
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class MeasuredShare:
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
    measures: Sequence[MeasuredShare], marks: Sequence[Mark], *, name: str, title: str, about: str
) -> str:
    """Measures above a line of 0 to 100 %, marks below it, each label in a row of its own."""
    axis = LINE_ROW * len(measures) + 18
    height = axis + 24 + LINE_ROW * len(marks)
    body = [tag("line", x1=at(0), x2=at(1), y1=axis, y2=axis, class_="axis")]
    body += [_tick(share, axis) for share in TICKS]
    # The main one lies on top of all, and its label nearest to the line.
    for row, mark in enumerate(marks):
        body.append(_mark(mark, axis, axis + 40 + LINE_ROW * row))
    for row, measure in enumerate(measures):
        body.append(_measure(measure, axis, 16 + LINE_ROW * row))
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


def _measure(measure: MeasuredShare, axis: float, row: float) -> str:
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


# ---- Numbers said against true ones, with the line on which they are equal.


SCATTER_MOST = 400  # dots that are drawn, evenly taken; more would only make the file larger


def scatter(
    points: Sequence[tuple[float, float]], half: float | None, *, name: str, title: str, about: str
) -> str:
    """A dot for each (truth, value); `half` is half the width of a band around the line."""
    ends = [x for point in points for x in point]
    low, high = min(ends), max(ends)
    ticks = [(x, f"{x:.4g}") for x in (low, (low + high) / 2, high)]
    frame = axes((low, high), (low, high), x_words="true", x_ticks=ticks, y_ticks=ticks)
    around = ""
    if half is not None:
        around = band(
            frame, [(x, max(x - half, low), min(x + half, high)) for x in _between(low, high)]
        )
    step = max(len(points) // SCATTER_MOST, 1)
    dots = "".join(
        tag("circle", cx=frame.x.at(truth), cy=frame.y.at(value), r=2, class_="dot")
        for truth, value in points[::step]
    )
    line = (Curve([(low, low), (high, high)], "curve pale"),)
    return chart(frame, line, around + dots, name=name, title=title, about=about)


def _between(low: float, high: float) -> list[float]:
    return [low + (high - low) * k / 40 for k in range(41)]
