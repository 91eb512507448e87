"""Pictures: as long as their share, inside their frame, and what a user named stays text."""

import re
import xml.etree.ElementTree as ET

import pytest

from warmstart.records.comparison import ConfidenceBin
from warmstart.reporting.figures import (
    CHART_HEIGHT,
    CHART_WIDTH,
    HEIGHT,
    WIDTH,
    Axes,
    Bar,
    Curve,
    MeasuredShare,
    band,
    chart,
    diagram,
    fixed,
    interval_bar,
    label,
    lying,
    matrix,
    on_a_line,
    position,
    stacked,
    standing,
    steps_to,
    tag,
    thinned,
    upright,
)
from warmstart.reporting.markup import short

OWN = {"name": "n", "title": "t", "about": "a"}
ENDS = [0.0, 0.02, 0.3, 0.5, 0.7, 0.98, 1.0]
COUNTS = {("a", "a"): 8, ("a", "b"): 2, ("b", "b"): 10}


def frame():
    return Axes((0.0, 10.0), (0.0, 1.0), x_words="updates", x_ticks=[(0, "0")], y_ticks=[(0, "0")])


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '" onload="x', "'><svg>", "a&b", "\x00\x1b[2J", "‮txt"]
)
def test_what_a_user_named_stays_text(text):
    picture = fixed(label(1, 2, text), name="n", title=text, about=text, width=9, height=9)
    root = ET.fromstring(picture)
    assert [element.tag for element in root] == ["title", "desc", "text"]
    content = root.find("text").text
    assert content.isprintable()
    assert content.replace("?", "") == "".join(x for x in text if x.isprintable()).replace("?", "")
    assert ET.fromstring(tag("rect", class_='a" b="c')).attrib == {"class": 'a" b="c'}


def test_a_picture_has_a_role_a_title_and_a_description_and_scrolls_only_if_wide():
    narrow, wide = (fixed("", **OWN, width=width, height=9) for width in (360, 500))
    for root in map(ET.fromstring, (narrow, lying([], **OWN))):
        assert root.attrib["role"] == "img"
        own = {element.attrib["id"]: element.text for element in root}
        assert [own[id] for id in root.attrib["aria-labelledby"].split()] == ["t", "a"]
    assert "min-width" not in narrow
    assert "min-width:425px" in wide


def test_long_names_are_cut_in_the_middle():
    assert short("a" * 20 + "b" * 20, 14) == "a" * 7 + "…" + "b" * 6
    assert all(len(short("x" * 20, most)) == most for most in range(3, 20))


# ---- Bars.


def test_a_lying_bar_is_as_long_as_its_share():
    root = ET.fromstring(lying([Bar("a", 0.25, "25 %"), Bar("b", 3.0, "too much")], **OWN))
    bars = [e.attrib["width"] for e in root.iter("rect") if e.attrib["class"] == "bar"]
    assert bars == ["25%", "100%"]


def test_a_standing_bar_is_as_high_as_its_value():
    root = ET.fromstring(standing([0.0, 0.5, 1.0], best=2, first="f", last="l", mark=0.3, **OWN))
    bars = [e.attrib for e in root.iter("rect") if e.attrib["class"].startswith("bar")]
    heights = [float(bar["height"]) for bar in bars]
    assert heights == pytest.approx([0, heights[2] / 2, heights[2]], abs=0.02)
    assert [bar["class"] for bar in bars] == ["bar pale", "bar pale", "bar"]


@pytest.mark.parametrize("n", [1, 300])
def test_any_number_of_bars_fits(n):
    root = ET.fromstring(standing([1.0] * n, first="f", last="l", unit="images", **OWN))
    for e in root.iter("rect"):
        x, width = float(e.attrib["x"]), float(e.attrib["width"])
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= float(e.attrib["y"]) <= HEIGHT


def test_pieces_stand_one_after_the_other():
    pieces = [("a", 0.5, "frozen"), ("b", 0.3, "tuned"), ("c", 0.2, "new")]
    root = ET.fromstring(stacked(pieces, **OWN))
    assert [e.attrib["x"] for e in root.iter("rect")] == ["0%", "50%", "80%"]


# ---- Curves.


@pytest.mark.parametrize("wild", [-1e9, 0.0, 1e9])
def test_wild_values_stay_in_the_frame(wild):
    curve = Curve([(0.0, wild), (wild, 0.5), (10.0, 1.0)])
    extra = band(frame(), [(0.0, wild, wild)]) + upright(frame(), wild, "guard")
    (line,) = ET.fromstring(chart(frame(), [curve, Curve([])], extra, **OWN)).iter("polyline")
    for pair in line.attrib["points"].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= CHART_WIDTH
        assert 0 <= y <= CHART_HEIGHT


def test_positions_are_proportional_or_logarithmic_and_one_value_divides_by_nothing():
    assert position(3.0, (3.0, 3.0), (0.0, 10.0)) == 5.0
    assert position(0.0, (0.0, 0.0), (0.0, 10.0), is_log=True) == 5.0
    places = [position(x, (10, 80), (0, 3), is_log=True) for x in (10, 20, 40, 80)]
    assert places == pytest.approx([0, 1, 2, 3])


def test_a_long_curve_is_thinned_without_losing_its_level():
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    few = thinned(points)
    assert len(few) == 160
    assert sum(y for _, y in few) / len(few) == pytest.approx(0.5, abs=0.01)
    assert thinned(points[:5]) == points[:5]


@pytest.mark.parametrize("high", [0.0, 0.003, 0.7, 7.0, 99.0, 5e6])
def test_ticks_are_few_and_inside(high):
    ticks = steps_to(high)
    assert ticks[0] == 0
    assert len(ticks) <= 6
    assert ticks[-1] <= high + 1e-9


def test_dots_of_calibration_lie_where_their_bins_do():
    bins = [
        ConfidenceBin(confidence=0.5, accuracy=0.25, low=0.1, high=0.4, n=10),
        ConfidenceBin(confidence=1.0, accuracy=1.0, low=0.8, high=1.0, n=40),
    ]
    first, second = (e.attrib for e in ET.fromstring(diagram(bins, **OWN)).iter("circle"))
    assert float(first["cx"]) < float(second["cx"])
    assert float(first["cy"]) > float(second["cy"])
    assert float(first["r"]) < float(second["r"])
    assert not [*ET.fromstring(diagram([], **OWN)).iter("circle")]


# ---- Shares on a line.


@pytest.mark.parametrize("value", ENDS)
@pytest.mark.parametrize("mark", ENDS)
def test_labels_never_share_a_row_and_lie_in_the_picture(value, mark):
    measures = (
        MeasuredShare("test", value, value / 2, value, is_main=False),
        MeasuredShare("estimate", value, value / 2, value),
    )
    root = ET.fromstring(on_a_line(measures, (("guess", mark), ("shuffled", mark)), **OWN))
    texts = [e.attrib for e in root.iter("text") if "small" not in e.attrib["class"]]
    rows = [float(text["y"]) for text in texts]
    assert len(rows) == 4
    assert all(abs(a - b) >= 18 for i, a in enumerate(rows) for b in rows[:i])
    for text in texts:  # a label at an end grows inwards
        x, anchor = float(text["x"].removesuffix("%")), text.get("text-anchor", "start")
        assert anchor == ("start" if x < 30 else "end" if x > 70 else "middle")
    height = float(root.attrib["height"])
    for name, text in (pair for e in root.iter() for pair in e.attrib.items()):
        if re.fullmatch(r"c?[xy][12]?", name):
            most = 100 if text.endswith("%") else height
            assert 0 <= float(text.removesuffix("%")) <= most, (name, text)


def test_the_small_one_is_hidden_from_readers_that_have_the_row():
    root = ET.fromstring(interval_bar(0.5, 0.4, 0.6, mark=0.9))
    assert root.attrib["aria-hidden"] == "true"
    assert len([*root.iter("line")]) == 3


# ---- Confusion matrix.


def test_every_count_appears_once_shaded_by_its_share():
    root = ET.fromstring(matrix(COUNTS, "ab", "ab", **OWN))
    assert [e.text for e in root.iter("text") if e.text.isdigit()] == ["8", "2", "10"]
    cells = [(e.attrib["class"], e.attrib.get("fill-opacity")) for e in root.iter("rect")]
    assert cells == [("hit", "0.40"), ("miss", "0.18"), ("ground", None), ("hit", "0.48")]
    empty = ET.fromstring(matrix({("a", "a"): 1}, "ab", "ab", **OWN))  # no example of class b
    assert len([*empty.iter("rect")]) == 4


def test_many_classes_draw_only_what_is_there():
    names = [f"class {i}" for i in range(200)]
    counts = {(name, name): 5 for name in names} | {(names[0], names[9]): 1}
    text = matrix(counts, names, names, is_small=True, **OWN)
    cells = [e for e in ET.fromstring(text).iter("rect") if e.attrib["class"] in ("hit", "miss")]
    assert len(cells) == 201
    assert len(text) < 120_000
