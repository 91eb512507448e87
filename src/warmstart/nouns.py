"""Nouns of sentences: a number and its noun, and the words for a kind of data."""

from __future__ import annotations

from dataclasses import dataclass


def count(n: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "image"), count(2500, "image"), count(2, "class")
    ('1 image', '2,500 images', '2 classes')
    """
    plural = noun + "es" if noun.endswith("s") else noun + "s"
    return f"{n:,} {noun if n == 1 else plural}"


def is_are(n: int) -> str:
    """The verb after a count."""
    return "is" if n == 1 else "are"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nouns:
    """The words for the examples of one kind, as pieces of sentences."""

    one: str
    picture: str  # as a thumbnail
    an: str  # with its article
    plain: str  # the input of a control without any network
    changed: str  # how a near-duplicate may differ
    typed: str  # argument of `warmstart predict RUN`
    quoted: str  # the same in Python
    new: str  # a new one, as an argument
    several: str  # new ones, as an argument
    labelled: str  # argument of `warmstart evaluate RUN`
    accept: str = ""  # `accept` of a file chooser in a browser
    sized: str = ""  # their size in a sentence, {} px

    @property
    def many(self) -> str:
        """The plural of `one`."""
        return f"{self.one}s"

    @property
    def pictures(self) -> str:
        """The plural of `picture`."""
        return f"{self.picture}s"

    @property
    def title(self) -> str:
        """`one` at the beginning of a heading."""
        return self.one.capitalize()

    def count(self, n: int, which: str = "") -> str:
        """A number and the noun; `which` stands before it."""
        return f"{n:,} {which}{' ' if which else ''}{self.one if n == 1 else self.many}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How messages name this source and its classes, in the user's own words."""

    source: str
    before: str  # text before a class name
    after: str = ""  # text after it
    remove: str  # what to remove so that a class is gone
    one_class: str = ""  # what to do if there is only one class
    noun: str = "image"  # what an example is called

    @classmethod
    def of_classes(cls, source: str, remove: str, noun: str = "image") -> Wording:
        """The wording of a source without folders: `labels.csv: class "cat"`."""
        return cls(source=source, before=f'{source}: class "', after='"', remove=remove, noun=noun)

    def place(self, label: str) -> str:
        return f"{self.before}{label}{self.after}"
