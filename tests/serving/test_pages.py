"""The pages' files by themselves: nothing foreign, nothing inline, no mistake in a script."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from warmstart.serving.access import OPEN
from warmstart.serving.app import FILES
from warmstart_studio.app import _pages

PAGE, STUDIO = (
    Path(str(files(package) / "page")) for package in ("warmstart.serving", "warmstart_studio")
)
PATHS = sorted(path for folder in (PAGE, STUDIO) for path in folder.rglob("*") if path.is_file())
SCRIPTS = [path for path in PATHS if path.suffix == ".js"]


def name_of(path):
    return path.name


def test_every_file_is_served_and_every_name_is_a_file():
    served = {PAGE / name for name, _ in FILES.values()}
    served |= {STUDIO / name for name, _ in _pages().values()}
    assert served == set(PATHS)
    assert FILES.keys() <= OPEN


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_nothing_is_loaded_from_elsewhere(path):
    text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|[\"'(]//|@import|\beval\b|innerHTML|document\.write", text)


@pytest.mark.parametrize("path", [p for p in PATHS if p.suffix == ".html"], ids=name_of)
def test_no_script_or_style_stands_in_a_page(path):
    """The policy allows files of our own alone."""
    text = path.read_text("utf-8")
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


# ---- Mistakes that a browser reports only once somebody presses the button.

IMPORT = re.compile(r'^import \{([^}]*)\} from "([^"]+)";', re.M)
OUTER = re.compile(r"^(?:export )?(?:async )?(?:const|let|function|class) ([\w$]+)", re.M)
EXPORTED = re.compile(r"^export (?:async )?(?:const|let|function|class) ([\w$]+)", re.M)
INNER = re.compile(r"^ .*?\b(?:const|let|function|class) (\w+|[{\[][^=]*?[}\]]) *[=(]", re.M)


def imported(text):
    """The names that a script imports, each with the file they come from."""
    return {
        name.split(" as ")[-1].strip(): (name.split(" as ")[0].strip(), file)
        for names, file in IMPORT.findall(text)
        for name in names.split(",")
        if name.strip()
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_inner_name_hides_one_of_the_file(script):
    """`const ask = …` inside a function makes every earlier call of the outer `ask` in it fail."""
    text = script.read_text()
    outer = {*imported(text), *OUTER.findall(text)}
    inner = {name for result in INNER.findall(text) for name in re.findall(r"\w+", result)}
    assert outer & inner == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_is_imported_is_there_and_used(script):
    text = script.read_text()
    body = IMPORT.sub("", text)
    for name, (original, file) in imported(text).items():
        there = (script.parent / file).read_text()
        assert original in EXPORTED.findall(there), f"{file} exports no {original}"
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", body), f"{name} is not used"


def test_the_search_finds_the_mistake_it_is_for():
    text = "async function ask() {}\nexport function add() {\n  const ask = 1;\n}\n"
    assert set(OUTER.findall(text)) & set(INNER.findall(text)) == {"ask"}
