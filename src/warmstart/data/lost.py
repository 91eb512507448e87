"""How much of a data set may be left out because it cannot be read."""

from __future__ import annotations

from collections.abc import Iterable

from warmstart.errors import DataError
from warmstart.records import Finding

MOST = 0.1  # of the data; beyond, what is left may be another data set than was meant


def is_too_much(n_lost: int, n_all: int) -> bool:
    """Whether so many of all examples are more than may be left out.

    >>> is_too_much(1, 10), is_too_much(2, 10)
    (False, True)
    """
    return n_lost > MOST * n_all


def check_lost(
    problems: Iterable[Finding], n_read: int, source: str, *, strict: bool, spared: int = 0
) -> None:
    """Refuse data of which too much, or with `strict` anything, could not be read.

    `spared` counts what is listed and no loss: images without a label, drawings without pixels.
    Raises: DataError naming the first of them.
    """
    items = [item for found in problems if found.kind == "unreadable" for item in found.items]
    if strict and items:
        raise DataError(
            f"--strict: {source}: {items[0]}; repair or remove it, or leave --strict away"
        )
    n_lost = len(items) - spared
    if is_too_much(n_lost, n_lost + n_read):
        raise DataError(
            f"{source}: {n_lost:,} of {n_lost + n_read:,} cannot be read (first: {items[0]}), and "
            "at most a tenth may be left out; repair or remove them"
        )
