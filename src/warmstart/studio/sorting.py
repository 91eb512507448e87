"""Rules for the labels of a board: classes, sets of labels, or numbers."""

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
_BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Sorting(Protocol):
    """How pictures are labelled on a board."""

    def normalise(self, label: str) -> str:
        """A label as it is stored. Raises: UsageError for an invalid one."""
        ...

    def names(self, label: str) -> tuple[str, ...]:
        """Its columns on the board."""
        ...

    def rename(self, label: str, old: str, new: str) -> str:
        """The label with the name `old` replaced."""
        ...

    def without(self, label: str, name: str) -> str | None:
        """The label without a name; None takes the picture off the board."""
        ...

    def problem(self, labels: Sequence[str]) -> str:
        """Why nothing can be trained on these labels yet; empty if something can."""
        ...


class ClassSorting:
    """One class per picture."""

    def normalise(self, label: str) -> str:
        return normalise_name(label)

    def names(self, label: str) -> tuple[str, ...]:
        return (label,)

    def rename(self, label: str, old: str, new: str) -> str:
        return new if label == old else label

    def without(self, label: str, name: str) -> str | None:
        return None if label == name else label

    def problem(self, labels: Sequence[str]) -> str:
        sizes = Counter(labels)
        rare = next((name for name, n in sizes.items() if n < 2), None)
        if len(sizes) < 2:
            return "Two classes with two pictures each are needed to begin."
        if rare is not None:
            return f"{rare} has 1 picture; a class needs at least 2. Add one, or take it off."
        return ""


class SetSorting:
    """Any of several labels per picture, as in records."""

    def normalise(self, label: str) -> str:
        """
        >>> SetSorting().normalise("owl| cat |owl"), SetSorting().normalise("")
        ('cat|owl', '')
        """
        return SEPARATOR.join(sorted({normalise_name(name) for name in split_labels(label)}))

    def names(self, label: str) -> tuple[str, ...]:
        return split_labels(label)

    def rename(self, label: str, old: str, new: str) -> str:
        return self.normalise(SEPARATOR.join(new if n == old else n for n in split_labels(label)))

    def without(self, label: str, name: str) -> str | None:
        return SEPARATOR.join(n for n in split_labels(label) if n != name)

    def problem(self, labels: Sequence[str]) -> str:
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
    """One number per picture."""

    def normalise(self, label: str) -> str:
        """
        >>> NumberSorting().normalise(" 3.50 ")
        '3.5'
        """
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UsageError(
                f"{label.strip()[:40] or 'nothing'} is not a number; enter one like 3.5."
            )
        return as_text(value)

    def names(self, label: str) -> tuple[str, ...]:
        return ()  # the page sorts them by size

    def rename(self, label: str, old: str, new: str) -> str:
        return label

    def without(self, label: str, name: str) -> str | None:
        return label

    def problem(self, labels: Sequence[str]) -> str:
        if len(labels) < LEAST_NUMBERS:
            return f"{LEAST_NUMBERS} pictures with numbers are needed to begin."
        return "" if len(set(labels)) > 1 else "All numbers are equal: there is nothing to learn."


SORTINGS: dict[Task, Sorting] = {
    "classify": ClassSorting(),
    "multilabel": SetSorting(),
    "regress": NumberSorting(),
}


def normalise_name(name: str) -> str:
    """A class name as it is stored. Raises: UsageError for an invalid one."""
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > MOST_LETTERS:
        raise UsageError(f"a class needs a name of 1 to {MOST_LETTERS} letters.")
    for letter in name:
        if unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn") or letter in _BIDIRECTIONAL:
            raise UsageError(
                f"a class name cannot contain the character U+{ord(letter):04X}; remove it."
            )
    return name


def normalise_label(name: str) -> str:
    """The name of one of several labels, which `|` separates. Raises: UsageError."""
    if SEPARATOR in name:
        raise UsageError(f"a label cannot contain the character {SEPARATOR}; remove it.")
    return normalise_name(name)
