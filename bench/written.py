"""Figures in the documents: written between marks from the kept results, never typed.

    <!-- made: coverage -->
    …
    <!-- end -->

What stands between is what the function of that name in a module of tables gives (`bench.tables`,
`bench.claims`, `bench.judged`, `bench.kinds_tables` …); drawings are whole files. `python -m bench
table --docs` writes all anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import (
    claims,
    drawings,
    figure,
    figure_freezing,
    guard_tables,
    judged,
    kinds_tables,
    scale_tables,
    story_tables,
    tables,
    task_tables,
    text_tables,
)

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"(<!-- made: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.S)
MADE: dict[str, Callable[[], str]] = {
    **tables.MADE,
    **claims.MADE,
    **guard_tables.MADE,
    **judged.MADE,
    **kinds_tables.MADE,
    **scale_tables.MADE,
    **story_tables.MADE,
    **text_tables.MADE,
    **task_tables.MADE,
}
DRAWN: dict[str, Callable[[], str]] = {
    "docs/accuracy.svg": figure.svg,
    "docs/figures/freezing.svg": figure_freezing.svg,
    **{
        f"docs/figures/{name}.svg": draw
        for name, draw in {**drawings.DRAWN, **story_tables.DRAWN}.items()
    },
}


def filled(text: str) -> str:
    """A document with every marked place filled anew."""
    return MARK.sub(lambda result: f"{result[1]}{MADE[result[2]]().strip()}\n{result[4]}", text)


def contents() -> Iterator[tuple[Path, str]]:
    """Each file that holds something made, and what it should hold."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text("utf-8")
        if MARK.search(text):
            yield path, filled(text)
    for name, draw in DRAWN.items():
        yield ROOT / name, draw()


def write() -> list[Path]:
    """Write what differs; returns the files that did."""
    changed = []
    for path, text in contents():
        if not path.exists() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            changed.append(path)
    return changed
