"""Curves: inside their frame, and never more points than are seen."""

import xml.etree.ElementTree as ET

import pytest

from warmstart.reporting.figures import CHART_HEIGHT as HEIGHT
from warmstart.reporting.figures import CHART_WIDTH as WIDTH
from warmstart.reporting.figures import (
    Axes,
    Curve,
    band,
    chart,
    position,
    steps_to,
    thinned,
    upright,
)

OWN = {"name": "n", "title": "t", "about": "a"}


def frame(x=(0.0, 10.0), y=(0.0, 1.0), **more):
    return Axes(x, y, x_words="updates", x_ticks=[(0, "0")], y_ticks=[(0, "0")], **more)


@pytest.mark.parametrize("wild", [-1e9, 0.0, 1e9])
def test_wild_values_stay_in_the_frame(wild):
    curve = Curve([(0.0, wild), (wild, 0.5), (10.0, 1.0)])
    extra = band(frame(), [(0.0, wild, wild)]) + upright(frame(), wild, "guard")
    root = ET.fromstring(chart(frame(), [curve], extra, **OWN))
    for line in root.iter("polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_a_frame_of_one_value_divides_by_nothing():
    assert position(3.0, (3.0, 3.0), (0.0, 10.0)) == 5.0
    assert position(0.0, (0.0, 0.0), (0.0, 10.0), is_log=True) == 5.0


def test_a_logarithmic_scale_gives_every_doubling_the_same_room():
    places = [position(x, (10, 80), (0, 3), is_log=True) for x in (10, 20, 40, 80)]
    assert places == pytest.approx([0, 1, 2, 3])


def test_a_long_curve_is_thinned_without_losing_its_level():
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    few = thinned(points)
    assert len(few) == 160
    assert sum(y for _, y in few) / len(few) == pytest.approx(0.5, abs=0.01)
    assert thinned(points[:5]) == points[:5]


@pytest.mark.parametrize("high", [0.0, 0.003, 0.7, 1.0, 7.0, 99.0, 1234.0, 5e6])
def test_ticks_are_few_round_and_inside(high):
    ticks = steps_to(high)
    assert ticks[0] == 0
    assert len(ticks) <= 6
    assert ticks[-1] <= high + 1e-9


def test_a_curve_without_points_is_nothing():
    root = ET.fromstring(chart(frame(), [Curve([])], **OWN))
    assert not [*root.iter("polyline")]
