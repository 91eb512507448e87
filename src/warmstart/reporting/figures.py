"""The pictures of the report as SVG: curves, bars, calibration, shares on a line, scatter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from markupsafe import Markup

from warmstart.records.comparison import ConfidenceBin
from warmstart.reporting.markup import short, svg_escaped


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture under its heading, with (class, words) of its colours and a caption.

    A wide one can be scrolled.
    """

    title: str
    picture: Markup
    caption: str = ""
    _: KW_ONLY
    legend: Sequence[tuple[str, str]] = ()
    is_wide: bool = False


# ---- Elements.


Value = str | float | int | None
WIDE = 380.0  # units; wider pictures are scrolled on a narrow screen


def digits(value: float) -> str:
    """A coordinate with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def tag(name: str, content: str = "", **attributes: Value) -> str:
    """One element. `content` is markup; attributes are escaped, those of None are omitted.

    An underscore in an attribute's name stands for a hyphen; a final one is dropped.

    >>> tag("rect", x=1.5, class_="bar", stroke_width=2, id=None)
    '<rect x="1.5" class="bar" stroke-width="2"/>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            text = digits(value) if isinstance(value, float) else svg_escaped(str(value))
            words.append(f'{key.rstrip("_").replace("_", "-")}="{text}"')
    head = " ".join(words)
    return f"<{head}>{content}</{name}>" if content else f"<{head}/>"


def at(share: float) -> str:
    """A position from 0 to 1 as a share of the picture's width, with a margin at both ends."""
    return f"{digits(2 + 96 * min(max(share, 0.0), 1.0))}%"


def line(x1: Value, x2: Value, y1: Value, y2: Value, class_: str) -> str:
    return tag("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=class_)


def rect(x: Value, y: Value, width: Value, height: Value, class_: str, **more: Value) -> str:
    return tag("rect", "", x=x, y=y, width=width, height=height, class_=class_, **more)


def circle(cx: Value, cy: Value, r: float, class_: str) -> str:
    return tag("circle", cx=cx, cy=cy, r=r, class_=class_)


def label(x: float | str, y: float, words: str, class_: str = "soft", anchor: str = "start") -> str:
    """Words at a position; `anchor` is start, middle or end."""
    text_anchor = None if anchor == "start" else anchor
    return tag("text", svg_escaped(words), x=x, y=y, class_=class_, text_anchor=text_anchor)


def fixed(body: str, *, name: str, title: str, about: str, width: float, height: float) -> Markup:
    """A picture with its own units, scaled as a whole; `name` is unique in the page."""
    view = f"0 0 {digits(width)} {digits(height)}"
    style = f"min-width:{digits(0.85 * width)}px;" if width > WIDE else ""
    style += f"max-width:{digits(1.25 * width)}px"
    return _picture(body, name, title, about, f'viewBox="{view}" class="fixed" style="{style}"')


def fluid(body: str, *, name: str, title: str, about: str, height: float) -> Markup:
    """A picture as wide as the page: horizontal positions are shares, letters keep their size."""
    return _picture(body, name, title, about, f'width="100%" height="{digits(height)}"')


def _picture(body: str, name: str, title: str, about: str, attributes: str) -> Markup:
    id = svg_escaped(name)
    return Markup(
        f'<svg role="img" aria-labelledby="{id}-t {id}-d" {attributes}>'
        f'<title id="{id}-t">{svg_escaped(title)}</title>'
        f'<desc id="{id}-d">{svg_escaped(about)}</desc>'
        f"{body}</svg>"
    )


# ---- Curves: the course of a training, a learning curve.


CHART_WIDTH, CHART_HEIGHT = 360.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 8.0, 12.0, 34.0
FLOOR = CHART_HEIGHT - BOTTOM
MOST = 160  # points of a curve; more would only make the file larger

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """Points from left to right, drawn in the style of a class."""

    points: Sequence[Point]
    class_: str = "curve"
    has_dots: bool = False


@dataclass(frozen=True, slots=True)
class Axes:
    """A frame for curves: the least and largest x and y, and ticks (value, words)."""

    x: tuple[float, float]
    y: tuple[float, float]
    _: KW_ONLY
    x_words: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    is_log: bool = False  # along x

    def x_at(self, value: float) -> float:
        return position(value, self.x, (LEFT, CHART_WIDTH - RIGHT), self.is_log)

    def y_at(self, value: float) -> float:
        return position(value, self.y, (FLOOR, TOP))


def position(value: float, ends: Point, places: Point, is_log: bool = False) -> float:
    """Where a value lies if `ends` lie at `places`; clipped to them."""
    low, high = ends
    if is_log:
        low, high, value = (math.log(max(x, 1e-12)) for x in (low, high, value))
    share = (value - low) / (high - low) if high > low else 0.5
    return places[0] + (places[1] - places[0]) * min(max(share, 0.0), 1.0)


def chart(
    frame: Axes, curves: Sequence[Curve], extra: str = "", *, name: str, title: str, about: str
) -> Markup:
    """Curves in their frame; `extra` (bands, lines) is drawn beneath them."""
    body = "".join([_frame(frame), extra, *(_curve(frame, curve) for curve in curves)])
    return fixed(body, name=name, title=title, about=about, width=CHART_WIDTH, height=CHART_HEIGHT)


def band(frame: Axes, points: Sequence[tuple[float, float, float]]) -> str:
    """The area between a low and a high over x: (x, low, high)."""
    lower = [_xy(frame, (x, low)) for x, low, _ in points]
    upper = [_xy(frame, (x, high)) for x, _, high in reversed(points)]
    return tag("polygon", points=" ".join([*lower, *upper]), class_="band")


def upright(frame: Axes, x: float, words: str, class_: str = "peg") -> str:
    """A vertical line at x with words at its top."""
    place = frame.x_at(x)
    is_right = place > CHART_WIDTH / 2
    shift, anchor = (-4, "end") if is_right else (4, "start")
    text = label(place + shift, TOP + 9, words, "soft small", anchor)
    return line(place, place, TOP, FLOOR, class_) + text


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most `most` points, each the mean of its neighbours."""
    if len(points) <= most:
        return list(points)
    means = []
    for number in range(most):
        start, stop = len(points) * number // most, len(points) * (number + 1) // most
        some = points[start:stop]
        means.append((sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)))
    return means


def steps_to(high: float, n: int = 4) -> list[float]:
    """Round values from 0 to about `high`."""
    if high <= 0:
        return [0.0]
    rough = high / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough * 0.9)
    return [step * k for k in range(int(high / step + 1e-9) + 1)]


def _frame(frame: Axes) -> str:
    right = CHART_WIDTH - RIGHT
    body = []
    for value, words in frame.y_ticks:
        y = frame.y_at(value)
        body.append(line(LEFT, right, y, y, "rule"))
        body.append(label(LEFT - 5, y + 4, words, "soft small", "end"))
    for value, words in frame.x_ticks:
        x = frame.x_at(value)
        anchor = "end" if x > CHART_WIDTH - 20 else "middle"
        body.append(line(x, x, FLOOR, FLOOR + 4, "axis"))
        body.append(label(x, FLOOR + 15, words, "soft small", anchor))
    body.append(line(LEFT, right, FLOOR, FLOOR, "axis"))
    body.append(label((LEFT + right) / 2, CHART_HEIGHT - 4, frame.x_words, "soft", "middle"))
    return "".join(body)


def _curve(frame: Axes, curve: Curve) -> str:
    if not curve.points:
        return ""
    points = " ".join(_xy(frame, point) for point in curve.points)
    shape = tag("polyline", points=points, class_=curve.class_)
    if curve.has_dots:
        class_ = "ring" if "base" in curve.class_ else "dot"
        shape += "".join(circle(frame.x_at(x), frame.y_at(y), 3.5, class_) for x, y in curve.points)
    return shape


def _xy(frame: Axes, point: Point) -> str:
    return f"{digits(frame.x_at(point[0]))},{digits(frame.y_at(point[1]))}"


# ---- Amounts as horizontal, stacked and vertical bars.


ROW = 36
WIDTH, HEIGHT = 360.0, 170.0
_LEFT, _BOTTOM, _TOP = 34.0, 26.0, 8.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One amount: its name, its share of the longest bar, the text at its end."""

    words: str
    share: float
    value: str
    class_: str = "bar"


def lying(bars: Sequence[Bar], *, name: str, title: str, about: str) -> Markup:
    """Horizontal bars; names and values stand above them, so that long names fit."""
    body = []
    for row, bar in enumerate(bars):
        y = ROW * row
        width = f"{digits(100 * min(max(bar.share, 0.0), 1.0))}%"
        body += [
            label(0, y + 14, short(bar.words, 34), ""),
            label("100%", y + 14, bar.value, "soft", "end"),
            rect(0, y + 20, "100%", 8, "ground", rx=2),
            rect(0, y + 20, width, 8, bar.class_, rx=2),
        ]
    return fluid("".join(body), name=name, title=title, about=about, height=ROW * len(bars))


def stacked(
    pieces: Sequence[tuple[str, float, str]], *, name: str, title: str, about: str
) -> Markup:
    """Pieces (words, share, class) of a whole in one bar; the page shows the legend."""
    body, x = [], 0.0
    for words, share, class_ in pieces:
        sides = {"x": f"{digits(100 * x)}%", "width": f"{digits(100 * share)}%"}
        text = tag("title", words)
        body.append(tag("rect", text, y=0, height=26, class_=class_, **sides))
        x += share
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
) -> Markup:
    """Vertical bars of shares ("%") or counts, `best` standing out, `mark` a line across."""
    top = 1.0 if unit == "%" else max(max(values), 1.0)
    floor, right = HEIGHT - _BOTTOM, WIDTH - 4
    body = []
    for share in (0.0, 0.5, 1.0):
        y = floor - (floor - _TOP) * share
        words = f"{100 * share:.0f} %" if unit == "%" else digits(round(top * share, 1))
        body.append(line(_LEFT, right, y, y, "rule"))
        body.append(label(_LEFT - 4, y + 4, words, "soft small", "end"))
    width = (right - _LEFT) / len(values)
    for place, value in enumerate(values):
        height = (floor - _TOP) * value / top
        class_ = "bar" if place == best or best is None else "bar pale"
        x = _LEFT + width * place + width * 0.1
        body.append(rect(x, floor - height, width * 0.8, height, class_))
    if mark is not None:
        y = floor - (floor - _TOP) * mark / top
        body.append(line(_LEFT, right, y, y, "peg thin"))
    body.append(label(_LEFT, HEIGHT - 8, first, "soft"))
    body.append(label(right, HEIGHT - 8, last, "soft", "end"))
    return fixed("".join(body), name=name, title=title, about=about, width=WIDTH, height=HEIGHT)


# ---- Calibration: confidence against accuracy.


_TICKS = ((0.0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1.0, "100 %"))


def diagram(bins: Sequence[ConfidenceBin], *, name: str, title: str, about: str) -> Markup:
    """A reliability diagram: a dot with its interval per bin, larger where it holds more."""
    frame = Axes((0.0, 1.0), (0.0, 1.0), x_words="confidence", x_ticks=_TICKS, y_ticks=_TICKS)
    x, y = frame.x_at, frame.y_at
    most = max((one.n for one in bins), default=1)
    body = [line(x(0), x(1), y(0), y(1), "peg thin")]
    for one in bins:
        place = x(one.confidence)
        body.append(line(place, place, y(one.low), y(one.high), "range thin"))
        body.append(circle(place, y(one.accuracy), 3.0 + 4.0 * (one.n / most) ** 0.5, "dot"))
    return chart(frame, (), "".join(body), name=name, title=title, about=about)


# ---- Shares on a line from 0 to 100 %: a dot with its interval, and marks to compare with.


LINE_ROW = 24  # px of height of one label
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class MeasuredShare:
    """A measured share with its interval; drawn above the line."""

    words: str
    value: float
    low: float
    high: float
    is_main: bool = True


def on_a_line(
    measures: Sequence[MeasuredShare],
    marks: Sequence[tuple[str, float]],
    *,
    name: str,
    title: str,
    about: str,
) -> Markup:
    """Measures above a line of 0 to 100 %, marks (words, share) below it, each in its own row."""
    axis = LINE_ROW * len(measures) + 18
    height = axis + 24 + LINE_ROW * len(marks)
    body = [line(at(0), at(1), axis, axis, "axis")]
    for share in TICKS:
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        words = f"{100 * share:.0f}" + (" %" if share == 1 else "")
        body.append(line(at(share), at(share), axis - 4, axis + 4, "axis"))
        body.append(label(at(share), axis + 18, words, "soft small", anchor))
    # The main one lies on top, and its label nearest to the line.
    for number, (words, share) in enumerate(marks):
        x, y = at(share), axis + 40 + LINE_ROW * number
        body += [line(x, x, axis, y - 13, "lead"), line(x, x, axis - 8, axis + 8, "peg")]
        body.append(label(x, y, words, "soft", anchor_of(share)))
    for number, measure in enumerate(measures):
        body.append(_measure(measure, axis, 16 + LINE_ROW * number))
    return fluid("".join(body), name=name, title=title, about=about, height=height)


def _measure(measure: MeasuredShare, axis: float, y: float) -> str:
    x, low, high = at(measure.value), at(measure.low), at(measure.high)
    thin, r, dot, strong = "", 7, "dot", "strong "
    if not measure.is_main:
        thin, r, dot, strong = " thin", 5, "ring", ""
    return (
        line(x, x, y + 4, axis, "lead")
        + line(low, high, axis, axis, f"range{thin}")
        + circle(x, axis, r, dot)
        + label(x, y, measure.words, f"{strong}halo", anchor_of(measure.value))
    )


def interval_bar(value: float, low: float, high: float, mark: float | None = None) -> Markup:
    """A small picture of one share with its interval, for a row of a table that has the text."""
    body = line(at(0), at(1), 8, 8, "rule")
    if mark is not None:
        body += line(at(mark), at(mark), 1, 15, "axis")
    body += line(at(low), at(high), 8, 8, "range") + circle(at(value), 8, 4, "dot")
    return Markup(f'<svg class="spark" aria-hidden="true" width="100%" height="16">{body}</svg>')


def anchor_of(share: float) -> str:
    """The anchor that keeps a label at this position inside the picture."""
    return "start" if share < 0.3 else "end" if share > 0.7 else "middle"


# ---- Predictions against targets, with the line on which they are equal.


SCATTER_MOST = 400  # dots, evenly sampled; more would only make the file larger


def scatter(
    points: Sequence[tuple[float, float]], half: float | None, *, name: str, title: str, about: str
) -> Markup:
    """A dot for each (target, prediction); `half` is half the width of a band around the line."""
    ends = [x for point in points for x in point]
    low, high = min(ends), max(ends)
    ticks = [(x, f"{x:.4g}") for x in (low, (low + high) / 2, high)]
    frame = Axes((low, high), (low, high), x_words="true", x_ticks=ticks, y_ticks=ticks)
    body = ""
    if half is not None:
        xs = [low + (high - low) * k / 40 for k in range(41)]
        body = band(frame, [(x, max(x - half, low), min(x + half, high)) for x in xs])
    step = max(len(points) // SCATTER_MOST, 1)
    body += "".join(circle(frame.x_at(x), frame.y_at(y), 2, "dot") for x, y in points[::step])
    diagonal = (Curve([(low, low), (high, high)], "curve pale"),)
    return chart(frame, diagonal, body, name=name, title=title, about=about)


# ---- Confusion matrix.


CELL, SMALL_CELL = 30.0, 9.0  # units
SMALL_NAMES = 74.0  # units left of a small matrix, and above it
_LETTERS, _LETTER = 14, 7.4  # of a name at most, and the width of one
PALEST, DARKEST = 0.1, 0.48  # opacity: numbers stay legible on it, in light and dark

Counts = Mapping[tuple[str, str], int]  # examples by (target, answer)


def matrix(
    counts: Counts,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    is_small: bool = False,
    name: str,
    title: str,
    about: str,
) -> Markup:
    """A confusion matrix, shaded by the share of a class's examples, with counts unless small."""
    longest = max(map(len, (*rows, *columns)), default=0)
    cell = SMALL_CELL if is_small else CELL
    space = SMALL_NAMES if is_small else 10 + _LETTER * min(longest, _LETTERS)
    width, height = cell * len(columns), cell * len(rows)
    class_ = "soft tiny" if is_small else "soft"
    totals: Counter[str] = Counter()
    for (target, _), n in counts.items():
        totals[target] += n
    body = [rect(space, space, width, height, "ground")] if is_small else []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            n, x, y = counts.get((row, column), 0), space + cell * j, space + cell * i
            if n or not is_small:
                body.append(_cell(x, y, cell, row == column, n / max(totals[row], 1)))
            if n and not is_small:
                body.append(label(x + cell / 2, y + cell / 2 + 4, f"{n:,}", "small", "middle"))
    for i, row in enumerate(rows):
        y = space + cell * (i + 0.5) + 3
        body.append(label(space - 5, y, short(row, _LETTERS), class_, "end"))
    for j, column in enumerate(columns):
        turn = f"translate({space + cell * (j + 0.5) + 3:.1f} {space - 5:.1f}) rotate(-90)"
        text = svg_escaped(short(column, _LETTERS))
        body.append(tag("text", text, class_=class_, transform=turn))
    sides = {"width": space + width + 4, "height": space + height + 4}
    return fixed("".join(body), name=name, title=title, about=about, **sides)


def _cell(x: float, y: float, side: float, is_right: bool, share: float) -> str:
    opacity = f"{PALEST + (DARKEST - PALEST) * share:.2f}" if share else None
    class_ = ("hit" if is_right else "miss") if share else "ground"
    gap = 1.0 if side > 12 else 0.5
    size = side - gap
    return rect(x + gap / 2, y + gap / 2, size, size, class_, fill_opacity=opacity)
