"""Curves over a number: what a training did, what more examples would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.reporting.svg import digits, fixed, label, tag

WIDTH, HEIGHT = 360.0, 210.0
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
    across = Scale(*x, LEFT, WIDTH - RIGHT, is_log)
    return Axes(across, Scale(*y, HEIGHT - BOTTOM, TOP), x_ticks, y_ticks, x_words)


def chart(
    frame: Axes, curves: Sequence[Curve], extra: str = "", *, name: str, title: str, about: str
) -> str:
    """Curves in their frame; `extra` is drawn beneath them (bands, lines)."""
    body = [_frame(frame), extra, *(_curve(frame, curve) for curve in curves)]
    return fixed("".join(body), name=name, title=title, about=about, width=WIDTH, height=HEIGHT)


def band(frame: Axes, points: Sequence[tuple[float, float, float]]) -> str:
    """The room between a low and a high over x: (x, low, high)."""
    there = [f"{_xy(frame, (x, low))}" for x, low, _ in points]
    back = [f"{_xy(frame, (x, high))}" for x, _, high in reversed(points)]
    return tag("polygon", points=" ".join([*there, *back]), class_="band")


def upright(frame: Axes, x: float, words: str, class_: str = "peg") -> str:
    """A line from top to bottom at x, with words at its head."""
    place = frame.x.at(x)
    line = tag("line", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM, class_=class_)
    is_right = place > WIDTH / 2
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
        body.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="rule"))
        body.append(label(LEFT - 5, y + 4, words, "soft small", "end"))
    for value, words in frame.x_ticks:
        x = frame.x.at(value)
        anchor = "end" if x > WIDTH - 20 else "middle"
        body.append(
            tag("line", x1=x, x2=x, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4, class_="axis")
        )
        body.append(label(x, HEIGHT - BOTTOM + 15, words, "soft small", anchor))
    floor = HEIGHT - BOTTOM
    body.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor, class_="axis"))
    body.append(label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, frame.x_words, "soft", "middle"))
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
