"""Features a few rows at a time, from sources that can give them so.

What is fitted to many examples must not hold all their features in memory. A source of
features is a function from a tap to the features of all its examples, (n, d); one that
can do more is asked for a few MB of rows, or for chosen rows, and any other one is asked
for all and cut.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from warmstart.solve.kernels import Features, Scaling, scaling_of
from warmstart.solve.ridge import Array, Rows

Key = TypeVar("Key", bound=Hashable)
Read = Callable[[Key], Features]
Chunk = Mapping[Key, Features]  # some taps of consecutive rows: each (m, d_t)


@runtime_checkable
class Chunked(Protocol[Key]):
    """A source that can be read a part at a time."""

    def __call__(self, tap: Key, /) -> Features:
        """All rows. Shapes: (n, d_t)."""
        ...

    def some(self, rows: Rows) -> Chunked[Key]:
        """A source of these rows, in this order."""
        ...

    def chunks(self, taps: Sequence[Key]) -> Iterator[Chunk[Key]]:
        """All rows, in order, a few at a time."""
        ...


def chunks(read: Read[Key], taps: Sequence[Key]) -> Iterator[Chunk[Key]]:
    """Consecutive rows of some taps: a few at a time where the source can, else all at once.

    >>> whole = {"a": np.zeros((3, 2), np.float32)}
    >>> [chunk["a"].shape for chunk in chunks(whole.__getitem__, ["a"])]
    [(3, 2)]
    """
    if isinstance(read, Chunked):
        yield from read.chunks(taps)
    else:
        yield {tap: read(tap) for tap in taps}


def some(read: Read[Key], rows: Rows) -> Read[Key]:
    """A source of chosen rows, in this order.

    >>> whole = {"a": np.arange(3, dtype=np.float32)[:, None]}
    >>> some(whole.__getitem__, np.array([2, 0]))("a").tolist()
    [[2.0], [0.0]]
    """
    if isinstance(read, Chunked):
        return read.some(rows)
    return lambda tap: read(tap)[rows]


def fit_scalings(read: Read[Key], taps: Sequence[Key]) -> dict[Key, Scaling]:
    """`fit_scaling` for each tap, in two passes over a few rows at a time.

    The same to the last bit as for all rows at once, where a tap has two features or more.

    >>> whole = {"a": np.array([[0.0, 5.0], [2.0, 5.0]], dtype=np.float32)}
    >>> fit_scalings(whole.__getitem__, ["a"])["a"].offset.tolist()
    [1.0, 5.0]
    """
    n, sums, squares = 0, dict[Key, Array](), dict[Key, Array]()
    for chunk in chunks(read, taps):
        n += len(chunk[taps[0]])
        for tap in taps:
            sums[tap] = _added(sums.get(tap), chunk[tap].astype(np.float64))
    means = {tap: total / n for tap, total in sums.items()}
    for chunk in chunks(read, taps):
        for tap in taps:
            gap = chunk[tap] - means[tap]
            squares[tap] = _added(squares.get(tap), np.multiply(gap, gap, out=gap))
    return {tap: scaling_of(means[tap], np.sqrt(squares[tap] / n)) for tap in taps}


def _added(total: Array | None, rows: Array) -> Array:
    """Rows are added one after the other, as `sum(axis=0)` does with all rows at once."""
    result: Array = np.add.reduce(rows if total is None else np.concatenate([total[None], rows]))
    return result
