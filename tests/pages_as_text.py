"""The documents as text: their links, headings, blocks of code and commands."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCED = re.compile(r"^(```+|~~~+)(\w*)[^\n]*\n(.*?)^\1[ \t]*$", re.M | re.S)
INDENTED = re.compile(r"(?:^(?: {4}|\t)[^\n]*\n|^[ \t]*\n(?= {4}|\t))+", re.M)
LINK = re.compile(r"!?\[(?:[^\]\\]|\\.)*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")


def named(path: Path) -> str:
    """The path of a document from the root, for messages and test ids."""
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """A document without its blocks of code and inline code."""
    text = FENCED.sub("", path.read_text("utf-8"))
    text = "\n".join(line for line in text.split("\n") if not line.startswith(("    ", "\t")))
    return re.sub(r"`[^`\n]*`", "``", text)


def links(path: Path) -> list[str]:
    """Every target of a link or picture."""
    return LINK.findall(prose(path))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as Python-Markdown makes them.

    >>> slug("What is read, and *how*?")
    'what-is-read-and-how'
    """
    text = FENCED.sub("", path.read_text("utf-8"))
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.*?)\s*#*$", text, re.M):
        name = slug(heading)
        found.append(f"{name}_{found.count(name)}" if name in found else name)
    return {*found, *re.findall(r'<a id="([^"]+)"', text)}


def slug(heading: str) -> str:
    """The anchor of one heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [
        body
        for _, named_as, body in FENCED.findall(path.read_text("utf-8"))
        if named_as == language
    ]


def commands(path: Path) -> Iterator[str]:
    """Every command line that stands in a block: continued lines joined, comments taken off."""
    text = path.read_text("utf-8")
    shown = [body for _, language, body in FENCED.findall(text) if language in ("sh", "text", "")]
    rest = FENCED.sub("", text)
    shown += INDENTED.findall(rest)
    for block in shown:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield re.sub(r"\s+#\s.*$|\s+# .*$", "", line.strip().removeprefix("$ "))
