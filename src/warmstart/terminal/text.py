"""Lines and columns as people read them, at most 80 columns wide; numbers by `formatting`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from warmstart.formatting import duration, printable

WIDTH = 80
TITLE = 9  # columns of the title at the left of each paragraph


def time_left(seconds: float) -> str:
    """Seconds still to wait, the coarser the more there are.

    >>> time_left(41.2), time_left(130), time_left(4700)
    ('41 s left', 'about 2 min left', 'about 1 h 20 min left')
    """
    if seconds < 99.5:
        return f"{max(round(seconds), 1)} s left"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {duration(300 * round(seconds / 300))} left"


def wrap(text: str, left: str = "", hanging: str = "") -> str:
    """Fill a paragraph to 80 columns; words, paths among them, are never broken."""
    return textwrap.fill(
        printable(" ".join(text.split())),
        WIDTH,
        initial_indent=left,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def line(title: str, facts: Sequence[tuple[int, str]], width: int = WIDTH) -> str:
    """A title and the facts beside it, as many as fit into `width` columns.

    >>> line("Tune", [(3, "9/9"), (1, "41 s"), (2, "val 0.86")])
    'Tune     9/9  41 s  val 0.86'
    """
    beside = fitting(facts, width - len(lead(title)))
    return f"{lead(title)}{beside}"[:width].rstrip()


def fitting(facts: Sequence[tuple[int, str]], width: int) -> str:
    """As many facts as fit: each comes with its importance, the least important ones go first.

    >>> fitting([(3, "9/9"), (1, "41 s"), (2, "val 0.86")], 13)
    '9/9  val 0.86'
    """
    kept = [fact for fact in facts if fact[1]]
    while kept:
        text = "  ".join(fact for _, fact in kept)
        if len(text) <= width:
            return text
        kept.remove(min(kept, key=lambda fact: fact[0]))
    return ""


def lead(title: str) -> str:
    """A title with the space up to its text.

    >>> lead("Look")
    'Look     '
    """
    return f"{printable(title):<{TITLE - 1}} "


def column(title: str, text: str) -> str:
    """A title at the left and its text beside it; each line of the text begins anew.

    >>> print(column("Data", "500 photographs\\n3 unreadable"))
    Data     500 photographs
             3 unreadable
    """
    blank = " " * TITLE
    rows = [row for row in text.splitlines() if row.strip()] or [""]
    filled = [wrap(row, blank if place else lead(title), blank) for place, row in enumerate(rows)]
    return "\n".join(row.rstrip() for row in filled)


def error_text(message: str, stream: TextIO | None) -> str:
    """The line for an error; on a terminal too narrow for it, filled with a hanging indent.

    Elsewhere it stays one line, so that it can be searched for.
    """
    text = "warmstart: " + printable(" ".join(message.split()))
    if stream is None or not stream.isatty():
        return text
    columns = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        text,
        columns,
        subsequent_indent=" " * len("warmstart: "),
        break_long_words=False,
        break_on_hyphens=False,
    )
