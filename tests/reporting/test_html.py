"""Elements as text: nothing that a user named can become markup."""

import xml.etree.ElementTree as ET

import pytest

from warmstart.reporting.figures import at, digits, fixed, fluid, label, tag
from warmstart.reporting.html import short
from warmstart.reporting.html import svg_escaped as escaped

NASTY = ("<script>alert(1)</script>", '" onload="x', "'><svg>", "a&b", "\x00\x1b[2J", "‮txt")


@pytest.mark.parametrize("text", NASTY)
def test_what_a_user_named_stays_text(text):
    picture = fixed(label(1, 2, text), name="n", title=text, about=text, width=9, height=9)
    root = ET.fromstring(picture)
    assert [element.tag for element in root] == ["title", "desc", "text"]
    content = root.find("text").text
    assert not {letter for letter in content if not letter.isprintable()}
    assert content.replace("?", "") == "".join(x for x in text if x.isprintable()).replace("?", "")


def test_attributes_are_escaped_too():
    assert ET.fromstring(tag("rect", class_='a" b="c')).attrib == {"class": 'a" b="c'}


@pytest.mark.parametrize("make", [fixed, fluid])
def test_a_picture_has_a_role_a_title_and_a_description(make):
    size = {"height": 10.0} | ({"width": 20.0} if make is fixed else {})
    root = ET.fromstring(make("", name="n", title="T", about="D", **size))
    assert root.attrib["role"] == "img"
    own = {element.attrib["id"]: element.text for element in root}
    assert [own[id] for id in root.attrib["aria-labelledby"].split()] == ["T", "D"]


def test_only_wide_pictures_may_be_scrolled():
    narrow, wide = (fixed("", name="n", title="", about="", width=w, height=9) for w in (360, 500))
    assert "min-width" not in narrow
    assert "min-width:425px" in wide


def test_places_stay_inside():
    assert [at(x) for x in (-1, 0, 0.25, 1, 2)] == ["2%", "2%", "26%", "98%", "98%"]
    assert [digits(x) for x in (1e-9, -1e-9, 2, 0.125)] == ["0", "0", "2", "0.12"]
    assert short("a" * 20 + "b" * 20, 14) == "a" * 7 + "…" + "b" * 6
    assert all(len(short("x" * 20, most)) == most for most in range(3, 20))
    assert escaped("a\nb") == "a?b"
