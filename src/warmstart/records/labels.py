"""How records hold the labels of an example that has several."""

from __future__ import annotations

SEPARATOR = "|"  # of the labels of one example


def split_labels(label: str) -> tuple[str, ...]:
    """The labels of an example from how records hold them; it may have none.

    >>> split_labels("cat|dog"), split_labels("")
    (('cat', 'dog'), ())
    """
    return tuple(label.split(SEPARATOR)) if label else ()
