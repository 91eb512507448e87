"""Lines and paragraphs as wide as the window; numbers are formatted by `formatting`."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence
from typing import TextIO

from warmstart.formatting import duration, printable

WIDTH = 80  # columns in a file or a pipe
LEAST_WIDTH, MOST_WIDTH = 40, 120  # of a terminal
TITLE = 10  # columns of the title at the left of each paragraph
_COLOURS = {
    "Ready": 32,
    "PASS": 32,
    "Usable with review": 33,
    "WARN": 33,
    "Not ready": 31,
    "FAIL": 31,
}
_LEVEL = re.compile(rf"^(?:{'|'.join(_COLOURS)})\b", re.MULTILINE)
GAP = "  "  # between the columns of a table
LEAST_NAME = 10  # columns of the names in a table


def time_left(seconds: float) -> str:
    """Seconds left, rounded more coarsely the more there are.

    >>> time_left(41.2), time_left(130), time_left(4700)
    ('41 s left', 'about 2 min left', 'about 1 h 20 min left')
    """
    if seconds < 99.5:
        return f"{max(round(seconds), 1)} s left"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {duration(300 * round(seconds / 300))} left"


def window() -> int:
    """Columns of the terminal that shows the result, 120 at most; 80 in a file or a pipe."""
    if sys.stdout is None or not sys.stdout.isatty():
        return WIDTH
    return min(max(shutil.get_terminal_size().columns, LEAST_WIDTH), MOST_WIDTH)


def wrap(text: str, left: str = "", hanging: str = "", width: int | None = None) -> str:
    """Fill a paragraph, as wide as the window; words and paths are never broken."""
    return textwrap.fill(
        printable(" ".join(text.split())),
        width or window(),
        initial_indent=left,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def line(title: str, facts: Sequence[tuple[int, str]], width: int = WIDTH) -> str:
    """A title and as many of the facts beside it as fit into `width` columns."""
    return f"{lead(title)}{fitting(facts, width - len(lead(title)))}"[:width].rstrip()


def fitting(facts: Sequence[tuple[int, str]], width: int) -> str:
    """As many (importance, fact) as fit into `width`; the least important are dropped first.

    >>> fitting([(3, "9/9"), (1, "41 s"), (2, "val 0.86")], 13)
    '9/9  val 0.86'
    """
    remaining = [fact for fact in facts if fact[1]]
    while remaining:
        text = "  ".join(fact for _, fact in remaining)
        if len(text) <= width:
            return text
        remaining.remove(min(remaining, key=lambda fact: fact[0]))
    return ""


def lead(title: str) -> str:
    """A title padded to the column where its text begins."""
    return f"{printable(title):<{TITLE - 1}} "


def command_rows(rows: Sequence[tuple[str, str]], title: str = "Next") -> list[str]:
    """Commands with their purpose as a comment, which is dropped where the line is too long.

    >>> command_rows([("warmstart models", "list them")])
    ['Next      warmstart models  # list them']
    """
    width = max((len(command) for command, _ in rows), default=0)
    lines = []
    for number, (command, purpose) in enumerate(rows):
        prefix = lead("" if number else title)
        line = f"{prefix}{command:<{width}}  # {purpose}"
        lines.append(line if len(line) <= window() else prefix + command)
    return lines


def shortened(text: str, width: int = WIDTH) -> str:
    """Text cut to `width` columns, the cut marked by an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def named(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, and how many more there are: `a, b and 1 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def table_lines(rows: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> list[str]:
    """Rows in aligned columns, those of the numbers `right` to the right.

    Long names in the first one lose their beginning.

    >>> table_lines([("run", "accuracy"), ("a", "84 %")])
    ['run  accuracy', 'a    84 %']
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    space = window() - sum(widths[1:]) - len(GAP) * (len(widths) - 1)
    widths[0] = min(widths[0], max(space, LEAST_NAME))
    lines = []
    for name, *rest in rows:
        first = name if len(name) <= widths[0] else "…" + name[len(name) - widths[0] + 1 :]
        cells = zip((first, *rest), widths, strict=True)
        texts = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(cells)
        ]
        lines.append(GAP.join(texts).rstrip())
    return lines


def highlighted(text: str, stream: TextIO | None) -> str:
    """Colour the words with which a result's lines begin, on a terminal that shows colours."""
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    if os.environ.get("TERM") == "dumb":
        return text
    return _LEVEL.sub(lambda found: f"\x1b[{_COLOURS[found[0]]}m{found[0]}\x1b[0m", text)


def column(title: str, text: str) -> str:
    """A title at the left and its wrapped text beside it; line breaks of the text stay.

    >>> print(column("Data", "500 photographs\\n3 unreadable"))
    Data      500 photographs
              3 unreadable
    """
    blank = " " * TITLE
    rows = [row for row in text.splitlines() if row.strip()] or [""]
    filled = [wrap(row, blank if place else lead(title), blank) for place, row in enumerate(rows)]
    return "\n".join(row.rstrip() for row in filled)


def error_text(message: str, stream: TextIO | None) -> str:
    """An error as one line that can be grepped; on a terminal, wrapped to its width."""
    text = "warmstart: " + printable(" ".join(message.split()))
    if stream is None or not stream.isatty():
        return text
    columns = max(40, shutil.get_terminal_size().columns)
    return wrap(text, hanging=" " * len("warmstart: "), width=columns)
