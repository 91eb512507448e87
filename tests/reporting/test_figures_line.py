"""Shares on a line: everything inside the picture, nothing over anything else."""

import re
import xml.etree.ElementTree as ET

import pytest

from warmstart.reporting.figures import MeasuredShare, anchor_of, interval_bar, on_a_line

ENDS = [0.0, 0.02, 0.3, 0.5, 0.7, 0.98, 1.0]


def picture(value, mark):
    measures = (
        MeasuredShare("test", value, value / 2, value, is_main=False),
        MeasuredShare("estimate", value, value / 2, value),
    )
    marks = (("guess", mark), ("shuffled", mark))
    return ET.fromstring(on_a_line(measures, marks, name="a", title="t", about="d"))


@pytest.mark.parametrize("value", ENDS)
@pytest.mark.parametrize("mark", ENDS)
def test_labels_never_share_a_row(value, mark):
    rows = [
        float(e.attrib["y"])
        for e in picture(value, mark).iter("text")
        if "small" not in e.attrib["class"]
    ]
    assert len(rows) == 4
    assert all(abs(a - b) >= 18 for i, a in enumerate(rows) for b in rows[:i])


@pytest.mark.parametrize("value", ENDS)
def test_all_of_it_lies_in_the_picture(value):
    root = picture(value, 1 - value)
    height = float(root.attrib["height"])
    for element in root.iter():
        for name, text in element.attrib.items():
            if re.fullmatch(r"c?[xy][12]?", name):
                share = text.removesuffix("%")
                most = 100 if text.endswith("%") else height
                assert 0 <= float(share) <= most, (element.tag, name, text)


def test_a_label_at_an_end_grows_inwards():
    assert [anchor_of(x) for x in (0.0, 0.5, 1.0)] == ["start", "middle", "end"]


def test_the_small_one_is_hidden_from_readers_that_have_the_row():
    root = ET.fromstring(interval_bar(0.5, 0.4, 0.6, mark=0.9))
    assert root.attrib["aria-hidden"] == "true"
    assert len([*root.iter("line")]) == 3
