"""Tables and figures as Markdown: one way to write a share, a time, a source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with the first column for names.

    >>> print(table(["set", "right"], [["cats", "90 %"]]))
    | set | right |
    |---|---|
    | cats | 90 % |
    """
    lines = [_row(heads), "|---" * len(heads) + "|", *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent; nothing where there is none.

    >>> percent(0.8792), percent(0.5, 0), percent(None)
    ('87.9 %', '50 %', '')
    """
    return "" if share is None else f"{100 * share:.{digits}f} %"


def bare(share: float | None, digits: int = 1) -> str:
    """A share in percent for a column that names the unit.

    >>> bare(0.8792), bare(0.5, 0), bare(None)
    ('87.9', '50', '')
    """
    return percent(share, digits).removesuffix(" %")


def points(difference: float) -> str:
    """A difference of shares.

    >>> points(0.0268), points(-0.0013)
    ('+2.7 points', '−0.1 points')
    """
    return f"{'−' if difference < 0 else '+'}{abs(100 * difference):.1f} points"


def took(seconds: float) -> str:
    """Seconds up to two minutes, then minutes.

    >>> took(9.48), took(430)
    ('9 s', '7 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def source(*names: str) -> str:
    """The line that says where figures come from."""
    return "(" + ", ".join(f"`bench/results/{name}.json`" for name in names) + ")"


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    result = list(values)
    return sum(result) / len(result)
