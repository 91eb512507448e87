"""Cache for fits that are repeated on the same examples with other labels.

Neither the partition of a network nor an inverse kernel depends on the labels, and they are most
of the work of a refit after a few corrections. Nothing is cached unless a program turns it on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, TypeVar

Value = TypeVar("Value")


class RefitCache:
    """Values by what they were computed from; above `max_bytes` the least recently used go.

    They are shared: do not modify them.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    @property
    def n_bytes(self) -> int:
        return sum(size for _, size in self._entries.values())

    def get(self, key: Hashable, n_bytes: int, make: Callable[[], Value]) -> Value:
        """The value under a key; if it is missing, made and cached as `n_bytes`.

        >>> cache = RefitCache(1000)
        >>> first = cache.get("a", 8, lambda: [1])
        >>> cache.get("a", 8, lambda: [2]) is first
        True
        """
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                cached: Value = self._entries[key][0]
                return cached
        value = make()
        with self._lock:
            self._entries[key] = value, n_bytes
            while self.n_bytes > self.max_bytes:
                self._entries.popitem(last=False)
        return value


_active: ContextVar[RefitCache | None] = ContextVar("refit_cache", default=None)


@contextmanager
def use_refit_cache(cache: RefitCache) -> Iterator[None]:
    """Cache what this thread computes inside the `with` block."""
    token = _active.set(cache)
    try:
        yield
    finally:
        _active.reset(token)


def active_refit_cache() -> RefitCache | None:
    """The cache of this thread; None unless `use_refit_cache` turned one on."""
    return _active.get()
