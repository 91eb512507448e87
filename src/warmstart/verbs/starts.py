"""`warmstart starts [WORD]`: pretrained networks usable here without a download."""

from __future__ import annotations

from warmstart.network.registry import Listing, available


def starts(word: str = "") -> tuple[Listing, ...]:
    """Starts whose name or title holds `word`.

    >>> "lite0" in [start.name for start in starts()]
    True
    """
    return available(word)
