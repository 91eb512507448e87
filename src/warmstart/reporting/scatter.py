"""Numbers said against true ones, with the line on which they are equal."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.reporting.chart import Curve, axes, band, chart
from warmstart.reporting.svg import tag

MOST = 400  # dots that are drawn, evenly taken; more would only make the file larger


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
    step = max(len(points) // MOST, 1)
    dots = "".join(
        tag("circle", cx=frame.x.at(truth), cy=frame.y.at(value), r=2, class_="dot")
        for truth, value in points[::step]
    )
    line = (Curve([(low, low), (high, high)], "curve pale"),)
    return chart(frame, line, around + dots, name=name, title=title, about=about)


def _between(low: float, high: float) -> list[float]:
    return [low + (high - low) * k / 40 for k in range(41)]
