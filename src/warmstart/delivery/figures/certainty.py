"""How sure the model is against how often it is right."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.delivery.figures.chart import Axes, axes, chart
from warmstart.delivery.figures.svg import tag
from warmstart.records import CertaintyBin

_TICKS = ((0.0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1.0, "100 %"))


def diagram(bins: Sequence[CertaintyBin], *, name: str, title: str, about: str) -> str:
    """Dots with intervals; on the slope the model is as sure as it is right.

    The more images stand behind a dot, the larger it is.
    """
    frame = axes(
        (0.0, 1.0), (0.0, 1.0), x_words="how sure it is", x_ticks=_TICKS, y_ticks=_TICKS
    )  # fmt: skip
    slope = tag(
        "line", x1=frame.x.at(0), y1=frame.y.at(0), x2=frame.x.at(1), y2=frame.y.at(1),
        class_="peg thin",
    )  # fmt: skip
    most = max((one.n for one in bins), default=1)
    dots = "".join(_dot(frame, one, most) for one in bins)
    return chart(frame, (), slope + dots, name=name, title=title, about=about)


def _dot(frame: Axes, one: CertaintyBin, most: int) -> str:
    x, y = frame.x.at(one.confidence), frame.y.at(one.accuracy)
    low, high = frame.y.at(one.low), frame.y.at(one.high)
    whisker = tag("line", x1=x, x2=x, y1=low, y2=high, class_="range thin")
    radius = 3.0 + 4.0 * (one.n / most) ** 0.5
    return whisker + tag("circle", cx=x, cy=y, r=radius, class_="dot")
