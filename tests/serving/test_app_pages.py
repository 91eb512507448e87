"""The page's files by themselves: nothing foreign, nothing inline, all of them there."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from warmstart.serving.access import OPEN
from warmstart.serving.app import FILES
from warmstart.studio.app import _pages

PAGE = files("warmstart.serving") / "page"
NAMES = sorted(
    str(path.relative_to(str(PAGE))) for path in Path(str(PAGE)).rglob("*") if path.is_file()
)


def test_every_file_is_served_and_every_name_is_a_file():
    served = {name for pages in (FILES, _pages()) for name, _ in pages.values()}
    assert served == set(NAMES)
    assert FILES.keys() <= OPEN


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_loaded_from_elsewhere(name):
    text = (PAGE / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|[\"'(]//|@import|\beval\b|innerHTML|document\.write", text)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".html")])
def test_no_script_or_style_stands_in_a_page(name):
    """The policy allows files of our own alone."""
    text = (PAGE / name).read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert re.findall(r"<script[^>]*>", text) == re.findall(
        r'<script type="module" src="/\w+\.js">', text
    )
    assert '<meta name="viewport"' in text
    assert '<html lang="en">' in text


def test_every_name_in_the_script_is_in_the_page():
    page = (PAGE / "index.html").read_text("utf-8")
    known = set(re.findall(r'id="(\w+)"', page))
    for name in ("page.js", "answer.js"):
        script = (PAGE / name).read_text("utf-8")
        assert set(re.findall(r'\$\("(\w+)"\)', script)) <= known
