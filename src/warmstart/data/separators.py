"""Several labels in one cell: what stands between them is found out once for a column."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.errors import DataError
from warmstart.records.labels import SEPARATOR

_MARKS = ("|", ";", ",")


def split_cells(cells: Sequence[str], shown: str) -> list[list[str]]:
    """The names in each cell, without white space around them; an empty cell has none.

    `|`, `;` or `,` separate, whichever occurs; where none does, white space, if so the cells
    are made of fewer different names. JSON lists come here joined already.
    Raises: DataError where two of the marks occur, so that neither is plain.

    >>> split_cells(["cat; dog", "dog", ""], "t.csv")
    [['cat', 'dog'], ['dog'], []]
    >>> split_cells(["a b", "b c", "a c", "a b c"], "t.csv")[3]
    ['a', 'b', 'c']
    """
    if _mark(cells, shown) is None:
        words = [cell.split() for cell in cells]
        if len({word for cell in words for word in cell}) < len(set(cells) - {""}):
            return words
    return split_marked(cells, shown)


def split_marked(cells: Sequence[str], shown: str) -> list[list[str]]:
    """The same, but white space never separates. Raises: as `split_cells`.

    >>> split_marked(["long sleeve", ""], "t.csv")
    [['long sleeve'], []]
    """
    mark = _mark(cells, shown)
    split = [[cell] if mark is None else cell.split(mark) for cell in cells]
    return [[name.strip() for name in cell if name.strip()] for cell in split]


def _mark(cells: Sequence[str], shown: str) -> str | None:
    """What separates names; None where nothing does."""
    found = [mark for mark in _MARKS if any(mark in cell for cell in cells)]
    if len(found) > 1:
        first = next(cell for cell in cells if found[1] in cell)
        raise DataError(
            f'{shown} has {" and ".join(map(repr, found))} in its labels (such as "{first}"); '
            f"put one of them between labels, such as {SEPARATOR!r}"
        )
    return found[0] if found else None
