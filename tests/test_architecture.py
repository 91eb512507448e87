"""The pages that lead into the code lead somewhere."""

from __future__ import annotations

import re

import pytest

from pages_as_text import DOCS, ROOT

SOURCE = ROOT / "src" / "warmstart"
PLACE = re.compile(r"`([a-z_/]+(?:\.py|/))`(?: \(((?:`\w+`(?:, )?)+)\))?")


def named_places(page):
    """(file or folder, names in brackets behind it) of a page."""
    text = (DOCS / page).read_text("utf-8")
    return [(place, re.findall(r"\w+", names)) for place, names in PLACE.findall(text)]


@pytest.mark.parametrize("page", ["architecture.md", "method.md", "papers.md"])
def test_every_file_that_a_page_names_is_there(page):
    found = named_places(page)
    assert len(found) > 10
    for place, names in found:
        outside = place.startswith(("bench/", "src/", "docs/", "tests/"))
        path = (ROOT if outside else SOURCE) / place
        assert path.exists(), f"{page} names {place}"
        for name in names:
            assert re.search(rf"^(def|class) {name}\b", path.read_text("utf-8"), re.M), name


def test_a_decision_stands_in_one_row():
    text = (DOCS / "architecture.md").read_text("utf-8")
    questions = re.findall(r"^\| ([^|]+\?) \|", text, re.M)
    assert len(questions) == len(set(questions)) > 30


def test_a_paper_is_named_where_it_is_said_to_be_used():
    rows = re.findall(r"^\| (.+?) \| .+? \| (`.+?) \|$", (DOCS / "papers.md").read_text(), re.M)
    assert len(rows) > 30
    for source, places in rows:
        authors = re.findall(r"([A-Z][\w-]+)(?: et al\.|[^;|]*?)? ((?:19|20)\d\d)", source)
        for place in re.findall(r"`([^`]+)`", places):
            code = re.sub(r"\s+", " ", (SOURCE / place).read_text("utf-8"))
            assert any(f"{author}" in code and year in code for author, year in authors), (
                f"{place} does not name {source}"
            )
