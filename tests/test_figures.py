"""Figures in the documents are those of the kept results."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import pytest

from pages_as_text import ROOT

sys.path.insert(0, str(ROOT))  # bench/ stands beside tests/
written = pytest.importorskip("bench.written", reason="bench/ is not beside the tests")
CONTENTS = list(written.contents())
NAMES = [path.relative_to(written.ROOT).as_posix() for path, _ in CONTENTS]


@pytest.mark.parametrize(("path", "text"), CONTENTS, ids=NAMES)
def test_what_is_made_from_results_is_up_to_date(path, text):
    assert path.read_text("utf-8") == text, "python -m bench table --docs writes it anew"


def test_every_mark_is_closed_and_known():
    for path, text in CONTENTS:
        if path.suffix == ".md":
            opened = text.count("<!-- made: ")
            assert opened == len(written.MARK.findall(text)) == text.count("<!-- end -->"), path


@pytest.mark.parametrize("name", written.DRAWN)
def test_a_drawing_is_whole_and_reads_on_dark_paper(name):
    text = written.DRAWN[name]()
    drawn = ElementTree.fromstring(text)
    assert drawn.get("aria-label")
    assert "prefers-color-scheme: dark" in text
    _, _, width, height = map(float, drawn.get("viewBox").split())
    for mark in drawn.iter():
        for axis, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(mark.get(axis, 0)) <= most, (name, mark.attrib)


def test_filling_twice_changes_nothing():
    text = "before\n<!-- made: kills -->\nold\n<!-- end -->\nafter\n"
    once = written.filled(text)
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert written.filled(once) == once
