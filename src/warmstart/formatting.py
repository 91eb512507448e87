"""Numbers for people, the same in the terminal and in the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
    exact = [round(share, 9) for share in shares]  # bounds of 0 and 1 have a rounding error
    is_close = any(0 < share < 0.005 or 0.995 <= share < 1 for share in exact)
    digits = 1 if n >= MANY or is_close else 0
    return [_percent(share, digits) for share in exact]


def _percent(share: float, digits: int) -> str:
    if share in (0.0, 1.0):
        return f"{100 * share:.0f}"
    text = f"{100 * share:.{digits}f}".replace("-", "−")
    if digits and text in ("0.0", "−0.0", "100.0"):
        return "0.1" if share < 0.5 else "99.9"
    return text


def percent(share: float, n: int) -> str:
    """One share of n examples.

    >>> percent(0.35, n=180)
    '35 %'
    """
    return f"{percents(share, n=n)[0]} %"


def probability(p: float) -> str:
    """The probability of one answer, which is never certain.

    >>> probability(0.34), probability(0.9999)
    ('34 %', '> 99 %')
    """
    return "> 99 %" if p >= 0.995 else percent(p, n=1)


def at_most(share: float) -> str:
    """A share that is promised not to be passed, in per cent: never rounded down.

    >>> at_most(0.0851), at_most(0.02), at_most(0.0012)
    ('9', '2', '0.2')
    """
    times = 1 if share >= 0.015 else 10
    return f"{math.ceil(100 * times * share - 1e-9) / times:g}"


def interval(value: float, low: float, high: float, n: int) -> str:
    """A share with its 95 % confidence interval.

    >>> interval(0.84, 0.78, 0.88, n=200)
    '84 % (95 % CI 78–88)'
    """
    return short_interval(value, low, high, n).replace("(", "(95 % CI ")


def short_interval(value: float, low: float, high: float, n: int) -> str:
    """The same for cells of a table whose heading says 95 % CI.

    >>> short_interval(0.84, 0.78, 0.88, n=200), short_interval(0.04, -0.1, 0.2, n=200)
    ('84 % (78–88)', '4 % (−10 to 20)')
    """
    middle, least, most = percents(value, low, high, n=n)
    return f"{middle} % ({least}{' to ' if low < 0 else '–'}{most})"


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


def sentence(text: str) -> str:
    """Begin with a capital, end with a full stop.

    >>> sentence("nothing was shipped")
    'Nothing was shipped.'
    """
    text = text.strip()
    return text if not text else text[0].upper() + text[1:].rstrip(".") + "."


def printable(text: str) -> str:
    """Text without control characters: a file's name must not steer a terminal or a page.

    >>> printable("a\\x1b[2Jb.jpg")
    'a?[2Jb.jpg'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def first_few(names: Iterable[str], n: int = 5) -> str:
    """The first `n` names, with an ellipsis if there are more.

    >>> first_few(["a", "b", "c"], 2)
    'a, b, …'
    """
    names = list(names)
    return ", ".join(names[:n]) + (", …" if len(names) > n else "")


def joined(names: Sequence[str], word: str = "and") -> str:
    """All names of a list.

    >>> joined(["a", "b", "c"]), joined(["a", "b"], "or"), joined(["a"])
    ('a, b and c', 'a or b', 'a')
    """
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
