"""What is kept while the same examples are fitted again and again, with other labels.

Neither the cut of a network nor an inverse kernel knows the labels. Whoever corrects a few of them
and learns again would need each of these anew, and they are most of the work. Nothing is kept
unless a program asks for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, TypeVar

Made = TypeVar("Made")


class Remembered:
    """Things by what they were made of; the oldest go when all are larger than `most_bytes`.

    They are shared: nobody may change them.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._found: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    @property
    def n_bytes(self) -> int:
        """Of all that is kept."""
        return sum(size for _, size in self._found.values())

    def get(self, key: Hashable, n_bytes: int, make: Callable[[], Made]) -> Made:
        """What stands under a key; made, and kept as so many bytes, if it is not here.

        >>> kept = Remembered(1000)
        >>> first = kept.get("a", 8, lambda: [1])
        >>> kept.get("a", 8, lambda: [2]) is first
        True
        """
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                found: Made = self._found[key][0]
                return found
        made = make()
        with self._lock:
            self._found[key] = made, n_bytes
            while self.n_bytes > self.most_bytes:
                self._found.popitem(last=False)
        return made


_at_hand: ContextVar[Remembered | None] = ContextVar("remembered", default=None)


@contextmanager
def remembering(kept: Remembered) -> Iterator[None]:
    """What this thread makes is looked up in `kept` for a while."""
    token = _at_hand.set(kept)
    try:
        yield
    finally:
        _at_hand.reset(token)


def at_hand() -> Remembered | None:
    """What is kept for this thread; None where nobody has asked for it."""
    return _at_hand.get()
