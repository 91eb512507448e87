"""The pages hang together: each in the navigation, each link to something, nothing foreign."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from urllib.parse import unquote

import pytest
import yaml

from pages_as_text import DOCS, PAGES, ROOT, anchors, links, named, slug

METHODS = {"warmstart.run.predictor.Predictor.predict"}  # of what `load` gives
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]
FOREIGN = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*\bhref=[\"']?"
    r"(?:https?:)?//[^>]*>|@import\s+[\"'(]*(?:url\()?[\"']?https?:"
)


def in_navigation(entry):
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for block in parts for page in in_navigation(block)]


def test_every_page_is_in_the_navigation_once():
    told = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = in_navigation(told["nav"])
    assert len(listed) == len(set(listed))
    have = {path.relative_to(DOCS).as_posix() for path in PAGES}
    assert set(listed) == have, "write it into (or out of) `nav` of mkdocs.yml"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_link_inside_leads_somewhere(path):
    for target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = unquote(target).partition("#")
        found = (path.parent / place).resolve() if place else path
        assert found.exists(), f"{named(path)} links to {target}, which is not there"
        if path in PAGES:
            assert found.is_relative_to(DOCS), f"{target} is outside docs/: not in the site"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{named(path)}: {target} has no such heading"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_a_page_has_one_title_and_it_comes_first(path):
    assert path.read_text("utf-8").startswith("# ")


def test_an_anchor_is_made_as_the_site_makes_it():
    markdown = pytest.importorskip("markdown.extensions.toc", reason="Markdown is not installed")
    for heading in ("What is read, and how?", "`--relabel fixed.csv`", "A — b", "Über 3 × 4"):
        plain = heading.replace("`", "")
        assert slug(heading) == markdown.slugify(plain, "-")


def test_the_site_is_built_and_needs_no_other_host(tmp_path):
    if find_spec("material") is None or find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs-material and mkdocstrings are not installed (pip install '.[docs]')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in [*pages, *tmp_path.rglob("*.css")]:
        foreign = FOREIGN.search(page.read_text("utf-8"))
        assert foreign is None, f"{page.name}: {foreign and foreign.group()[:200]}"
    shown = (tmp_path / "api.html").read_text("utf-8")
    import warmstart

    for name in warmstart.__all__:
        assert re.search(rf'id="warmstart\.[\w.]*\b{name}"', shown), f"api.html lacks {name}"


def test_the_reference_names_what_is_public_and_nothing_else():
    import warmstart

    named_there = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.M)
    homes = {f"{home}.{name}" for name, home in warmstart._HOMES.items()}
    assert set(named_there) == homes | METHODS
    for path in METHODS:
        module, owner, name = path.rsplit(".", 2)
        assert callable(getattr(getattr(import_module(module), owner), name))
