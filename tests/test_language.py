"""One voice: the field's words in names, and no translated or private phrase in any sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import warmstart
from pages_as_text import PAGES, ROOT, named, prose

SOURCE = sorted(Path(warmstart.__file__).parents[1].glob("warmstart*/**/*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]

# Words that once named things for which the field has a term (docs/glossary.md), as they stand
# between the underscores of a name. Beside some, the term.
BANNED = {
    "arranged",  # LabelledRows
    "asked",  # request
    "cue",  # spurious correlation
    "doubts",  # label issues
    "drawn",
    "glance",  # low-resolution features
    "hope",
    "kept",
    "lesson",  # training job
    "look",  # validation
    "mine",
    "outfit",  # trainable network
    "room",  # context
    "said",
    "scene",  # training data set
    "shelf",  # cache file
    "shelves",
    "taken",
    "tap",  # feature layer
    "taps",
    "told",
    "trunk",  # backbone
    "twin",  # single-layer head
    "wish",
    "witness",
}

# Phrases that no technical editor would let pass, and the old names of things.
PHRASES = [
    r"a new output alone",
    r"as often right",
    r"by lot\b",
    r"is told of",
    r"(is|are) taken for what",
    r"(leave|leaves|left) (it |them |one )?away\b",
    r"passes none of",
    r"[Tt]ake it home",
    r"what is taken for",
    r"\bof one's own\b",
    r"--start\b",
    r"`(linear|tail|recipe|warm|none|shift)` verdict",
    r"half of the data look",
    r"\bthe start's\b",
    r"\btaps\b",
    r"\bviews? of (an|each|every) (image|picture|example)",
    r"\bsuccessfully\b",
    r"\bseamless",
    r"\bSOTA\b",
]
BAD = re.compile("|".join(PHRASES))


def words_of(name: str) -> set[str]:
    """The words of an identifier.

    >>> sorted(words_of("TrainingJob") | words_of("_n_rows"))
    ['job', 'n', 'rows', 'training']
    """
    return set(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")) - {""}


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module binds or passes, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno


@pytest.mark.parametrize("path", SOURCE, ids=lambda path: named(path))
def test_names_are_words_of_the_field(path):
    for name, line in names(ast.parse(path.read_text("utf-8"))):
        assert not words_of(name) & BANNED, f"{path.name}:{line}: {name}"


@pytest.mark.parametrize("path", SOURCE, ids=lambda path: named(path))
def test_sentences_of_the_code(path):
    """Docstrings, messages and comments."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        assert not (bad := BAD.search(line)), f"{path.name}:{number}: {bad and bad[0]}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_sentences_of_the_pages(path):
    text = " ".join(prose(path).split())
    assert not (bad := BAD.search(text)), bad and text[max(bad.start() - 60, 0) : bad.end() + 20]


@pytest.mark.parametrize("name", ["README.md", "docs/first-model.md", "docs/index.md"])
def test_sentences_of_the_first_pages_are_short(name):
    """At most 30 words, so that a page can be read once and be understood."""
    text = re.sub(r"^\|.*$|^#.*$|<!--.*?-->", "", prose(ROOT / name), flags=re.M)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", text):
        for sentence in re.split(r"(?<=[.!?:;])\s+", " ".join(paragraph.split())):
            assert sentence.count(" · ") or len(sentence.split()) <= 30, sentence
