"""Bars: as long as their share, in a picture that holds them."""

import xml.etree.ElementTree as ET

import pytest

from warmstart.reporting.figures import HEIGHT, WIDTH, Bar, lying, stacked, standing

OWN = {"name": "n", "title": "t", "about": "a"}


def test_a_lying_bar_is_as_long_as_its_share():
    root = ET.fromstring(lying([Bar("a", 0.25, "25 %"), Bar("b", 3.0, "too much")], **OWN))
    bars = [e.attrib["width"] for e in root.iter("rect") if e.attrib["class"] == "bar"]
    assert bars == ["25%", "100%"]
    assert float(root.attrib["height"]) == 72


def test_a_standing_bar_is_as_high_as_its_value():
    values = [0.0, 0.5, 1.0]
    root = ET.fromstring(standing(values, best=2, first="f", last="l", mark=0.3, **OWN))
    bars = [e for e in root.iter("rect") if e.attrib["class"].startswith("bar")]
    heights = [float(e.attrib["height"]) for e in bars]
    assert heights[0] == 0
    assert heights[1] == pytest.approx(heights[2] / 2, abs=0.02)
    assert [e.attrib["class"] for e in bars] == ["bar pale", "bar pale", "bar"]


@pytest.mark.parametrize("n", [1, 18, 300])
def test_any_number_of_bars_fits(n):
    root = ET.fromstring(standing([1.0] * n, first="f", last="l", unit="images", **OWN))
    for e in root.iter("rect"):
        assert 0 <= float(e.attrib["x"]) <= float(e.attrib["x"]) + float(e.attrib["width"]) <= WIDTH
        assert 0 <= float(e.attrib["y"]) <= HEIGHT


def test_pieces_stand_one_after_the_other():
    pieces = [("a", 0.5, "frozen"), ("b", 0.3, "tuned"), ("c", 0.2, "new")]
    root = ET.fromstring(stacked(pieces, **OWN))
    assert [e.attrib["x"] for e in root.iter("rect")] == ["0%", "50%", "80%"]
