"""Mistakes in the pages' scripts that a browser reports only once somebody presses the button."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

PAGE = Path(str(files("warmstart.serving") / "page"))
SCRIPTS = sorted(PAGE.rglob("*.js"))
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
