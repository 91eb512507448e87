"""Numbers, lines and columns as people read them, at most 80 columns wide."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

WIDTH = 80
TITLE = 9  # columns of the title at the left of each paragraph
MANY = 1000  # from so many examples on, a tenth of a per cent says something


def percents(*shares: float, n: int) -> list[str]:
    """Shares in per cent, all with as many decimals, without the sign.

    Whole numbers below 1,000 examples, else one decimal; also one decimal where a whole
    number would make 100 of less than all, or 0 of more than nothing.

    >>> percents(0.864, 0.82, 0.894, n=300)
    ['86', '82', '89']
    >>> percents(0.996, 0.981, 1.0, n=300), percents(0.86, n=5000)
    (['99.6', '98.1', '100'], ['86.0'])
    """
    exact = [
        round(share, 9) for share in shares
    ]  # the bounds of 0 and 1 come with a rounding error
    is_close = any(0 < share < 0.005 or 0.995 <= share < 1 for share in exact)
    digits = 1 if n >= MANY or is_close else 0
    return [_percent(share, digits) for share in exact]


def _percent(share: float, digits: int) -> str:
    if share in (0.0, 1.0):
        return f"{100 * share:.0f}"
    text = f"{100 * share:.{digits}f}"
    if digits and float(text) in (0.0, 100.0):
        return "0.1" if share < 0.5 else "99.9"
    return text


def percent(share: float, n: int) -> str:
    """One share of n examples.

    >>> percent(0.35, n=180)
    '35 %'
    """
    return f"{percents(share, n=n)[0]} %"


def interval(value: float, low: float, high: float, n: int) -> str:
    """A share with its interval.

    >>> interval(0.84, 0.78, 0.88, n=200)
    '84 % (78 to 88)'
    """
    middle, least, most = percents(value, low, high, n=n)
    return f"{middle} % ({least} to {most})"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter.

    >>> duration(4.13), duration(41.2), duration(200), duration(3900)
    ('4.1 s', '41 s', '3 min 20 s', '1 h 5 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


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


def size(n_bytes: int) -> str:
    """Bytes in MB or GB of powers of ten, as disks are sold.

    >>> size(0), size(130_400_000), size(2_000_000_000)
    ('0 MB', '130 MB', '2.0 GB')
    """
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:.1f} GB"
    if 0 < n_bytes < 1e6:
        return "less than 1 MB"
    return f"{n_bytes / 1e6:.0f} MB"


def count(n: int, noun: str) -> str:
    """A number and its noun; plural in -s.

    >>> count(1, "image"), count(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def printable(text: str) -> str:
    """Text without control characters: a file's name must not steer the terminal.

    >>> printable("a\\x1b[2Jb.jpg")
    'a?[2Jb.jpg'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def sentence(text: str) -> str:
    """Begin with a capital, end with a full stop.

    >>> sentence("nothing was shipped")
    'Nothing was shipped.'
    """
    text = text.strip()
    return text if not text else text[0].upper() + text[1:].rstrip(".") + "."


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
