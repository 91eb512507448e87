"""What a board's labels are, task by task: classes, sets of labels, or numbers."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from warmstart.errors import UsageError
from warmstart.records.data import SEPARATOR, Task, split_labels
from warmstart.tasks.regress import as_text

MOST_LETTERS = 100  # of a class name
LEAST_NUMBERS = 3  # pictures with numbers to begin with
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Sorting(Protocol):
    """How pictures are labelled on a board."""

    def checked(self, label: str) -> str:
        """A label as it is kept. Raises: UsageError for one that cannot be."""
        ...

    def names(self, label: str) -> tuple[str, ...]:
        """The columns that it stands in."""
        ...

    def renamed(self, label: str, old: str, new: str) -> str:
        """The label where a name in it is called otherwise."""
        ...

    def without(self, label: str, name: str) -> str | None:
        """The label without a name; None where nothing is left of it."""
        ...

    def problem(self, labels: Sequence[str]) -> str:
        """Why nothing can be learnt from these yet; nothing where something can."""
        ...


class ClassSorting:
    """One class a picture."""

    def checked(self, label: str) -> str:
        """A class name."""
        return checked_name(label)

    def names(self, label: str) -> tuple[str, ...]:
        """The class."""
        return (label,)

    def renamed(self, label: str, old: str, new: str) -> str:
        """The other name."""
        return new if label == old else label

    def without(self, label: str, name: str) -> str | None:
        """A picture goes with its class."""
        return None if label == name else label

    def problem(self, labels: Sequence[str]) -> str:
        """Two classes of two are needed."""
        sizes = Counter(labels)
        few = next((name for name, n in sizes.items() if n < 2), None)
        if len(sizes) < 2:
            return "Two classes with two pictures each are needed to begin."
        if few is not None:
            return f"{few} has 1 picture; a class needs at least 2. Add one, or take it off."
        return ""


class SetSorting:
    """Any of several labels a picture, as records hold them."""

    def checked(self, label: str) -> str:
        """Names, each once, in the order of the alphabet.

        >>> SetSorting().checked("owl| cat |owl"), SetSorting().checked("")
        ('cat|owl', '')
        """
        return SEPARATOR.join(sorted({checked_name(name) for name in split_labels(label)}))

    def names(self, label: str) -> tuple[str, ...]:
        """The labels."""
        return split_labels(label)

    def renamed(self, label: str, old: str, new: str) -> str:
        """With the other name."""
        return self.checked(SEPARATOR.join(new if n == old else n for n in split_labels(label)))

    def without(self, label: str, name: str) -> str | None:
        """The others; a picture stays without any."""
        return SEPARATOR.join(n for n in split_labels(label) if n != name)

    def problem(self, labels: Sequence[str]) -> str:
        """Two labels, each with two pictures and two without."""
        sizes = Counter(name for label in labels for name in split_labels(label))
        if len(sizes) < 2:
            return "Two labels with two pictures each are needed to begin."
        for name, n in sizes.items():
            if n < 2:
                return f"{name} has 1 picture; a label needs at least 2. Add one, or remove it."
            if n > len(labels) - 2:
                return f"{name} needs at least 2 pictures without it; take it from some."
        return ""


class NumberSorting:
    """A number a picture."""

    def checked(self, label: str) -> str:
        """A number as records write it.

        >>> NumberSorting().checked(" 3.50 ")
        '3.5'
        """
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UsageError(f"{label.strip()[:40] or 'nothing'} is no number; give one like 3.5.")
        return as_text(value)

    def names(self, label: str) -> tuple[str, ...]:
        """None: the page sorts them by size."""
        return ()

    def renamed(self, label: str, old: str, new: str) -> str:
        """As it is."""
        return label

    def without(self, label: str, name: str) -> str | None:
        """As it is."""
        return label

    def problem(self, labels: Sequence[str]) -> str:
        """Some that differ."""
        if len(labels) < LEAST_NUMBERS:
            return f"{LEAST_NUMBERS} pictures with numbers are needed to begin."
        return "" if len(set(labels)) > 1 else "All numbers are equal: there is nothing to learn."


SORTINGS: dict[Task, Sorting] = {
    "classify": ClassSorting(),
    "multilabel": SetSorting(),
    "regress": NumberSorting(),
}


def checked_name(name: str) -> str:
    """A class name as it is kept. Raises: UsageError for one that cannot be shown or stored.

    >>> checked_name("  house  cat ")
    'house cat'
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > MOST_LETTERS:
        raise UsageError(f"a class needs a name of 1 to {MOST_LETTERS} letters.")
    strange = next((letter for letter in name if _is_strange(letter)), None)
    if strange is not None:
        raise UsageError(
            f"a class name cannot hold the letter U+{ord(strange):04X}; leave it away."
        )
    return name


def label_name(name: str) -> str:
    """The same of one of several labels, between which `|` stands. Raises: UsageError."""
    if SEPARATOR in name:
        raise UsageError(f"a label cannot hold the letter {SEPARATOR}; leave it away.")
    return checked_name(name)


def _is_strange(letter: str) -> bool:
    """Control characters, halves of characters, and what turns the text around it."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn") or letter in _TURNING
