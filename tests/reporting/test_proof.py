"""The matrix: counts where they belong, legible for few classes, small for many."""

import xml.etree.ElementTree as ET

from warmstart.reporting.figures import matrix

OWN = {"name": "n", "title": "t", "about": "a"}
COUNTS = {("a", "a"): 8, ("a", "b"): 2, ("b", "b"): 10}


def test_every_count_appears_once():
    root = ET.fromstring(matrix(COUNTS, "ab", "ab", **OWN))
    numbers = [e.text for e in root.iter("text") if e.text.isdigit()]
    assert numbers == ["8", "2", "10"]


def test_shade_and_class_show_right_and_wrong():
    root = ET.fromstring(matrix(COUNTS, "ab", "ab", **OWN))
    cells = [(e.attrib["class"], e.attrib.get("fill-opacity")) for e in root.iter("rect")]
    assert cells == [("hit", "0.40"), ("miss", "0.18"), ("ground", None), ("hit", "0.48")]


def test_a_class_without_images_divides_by_nothing():
    root = ET.fromstring(matrix({("a", "a"): 1}, "ab", "ab", **OWN))
    assert len([*root.iter("rect")]) == 4


def test_many_classes_draw_only_what_is_there():
    names = [f"class {i}" for i in range(200)]
    counts = {(name, name): 5 for name in names} | {(names[0], names[9]): 1}
    text = matrix(counts, names, names, is_small=True, **OWN)
    cells = [e for e in ET.fromstring(text).iter("rect") if e.attrib["class"] in ("hit", "miss")]
    assert len(cells) == 201
    assert len(text) < 120_000


def test_long_names_are_cut():
    text = matrix({}, ["x" * 90], ["x" * 90], **OWN)
    assert "x" * 7 + "…" + "x" * 6 in text
    assert "x" * 8 not in text
