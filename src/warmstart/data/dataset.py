"""What a source turns out to hold: rows, how to fetch their bytes, and how to name them.

`Listing` is what a layout found (nothing is read yet); `Collection` is what the stage returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from warmstart.errors import DataError
from warmstart.records.data import DataRecord, Example, Finding, Split
from warmstart.records.inputs import Kind

Load = Callable[[str], bytes]
Asked = Literal["auto", "image", "audio", "text", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns a user named with --label, --group and --text, and the --kind of data.

    `task` is what --task says of the labels.
    """

    label: str | None = None
    group: str | None = None
    text: str | None = None
    kind: Asked = "auto"
    task: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How messages name this source and its classes, in the user's own words.

    >>> Wording(source="photos", before="photos/", remove="the folder").place("cat")
    'photos/cat'
    """

    source: str
    before: str  # what stands before a class name where a class is named
    after: str = ""
    remove: str  # what to remove to be rid of a class
    one_class: str = ""  # what to do if there is only one class
    noun: str = "image"  # what an example is called

    def place(self, label: str) -> str:
        """Where a class lives, as the user would write it."""
        return f"{self.before}{label}{self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One labelled file of a source, not yet read."""

    id: str
    label: str
    split: Split = "train"
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every row of a source; `load` gives the encoded bytes of a row by its id.

    `load` raises DataError with a short reason where the bytes cannot be had. `doubt` says why
    its labels cannot be learnt, such as that all are different; other uses do not mind.
    `form` says what the labels plainly are; "sets" are names with `|` between. `outputs` are
    the names of 0/1 columns, or of the column of labels. `problems` lists what is left out.
    """

    name: str
    layout: str
    title: str
    rows: tuple[Row, ...]
    load: Load
    wording: Wording
    is_table: bool = False
    doubt: str = ""
    problems: tuple[Finding, ...] = ()
    spared: int = 0  # items of its problems that are no losses: without a label, or without pixels
    kind: Kind = "image"
    form: Literal["texts", "sets", "numbers"] = "texts"
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What was read: the record (data.json) and the bytes behind each example id.

    `load` may be called from several threads. Raises there: DataError where a file has gone.
    `strict` refuses what cannot be decoded instead of leaving it out.
    """

    record: DataRecord
    load: Load
    title: str  # a sentence part for people: "1,300 images in photos/"
    wording: Wording
    spared: int = 0  # as in `Listing`
    strict: bool = False


def under(listing: Listing, prefix: str, split: Split) -> Listing:
    """The listing as one part of a larger one: ids begin with `prefix`, all rows are of `split`.

    Groups are proposed for the training part only; other parts would say the same again.
    """
    kept = tuple(f for f in listing.problems if split == "train" or f.kind != "group-proposed")
    load = listing.load  # and not the listing, whose rows would stay in memory with it
    return replace(
        listing,
        rows=tuple(replace(row, id=prefix + row.id, split=split) for row in listing.rows),
        load=lambda id: load(id[len(prefix) :]),
        problems=kept,
    )


def joined(parts: Sequence[Listing], layout: str) -> Listing:
    """Listings with different ids as one, called and worded as the first."""
    owners = {row.id: part.load for part in parts for row in part.rows}
    return replace(
        parts[0],
        layout=layout,
        rows=tuple(row for part in parts for row in part.rows),
        load=lambda id: owners[id](id),
        is_table=any(part.is_table for part in parts),
        problems=tuple(problem for part in parts for problem in part.problems),
        spared=sum(part.spared for part in parts),
    )


def some(names: Iterable[str], n: int = 5) -> str:
    """The first few names, and that there are more.

    >>> some(["a", "b", "c"], 2)
    'a, b, …'
    """
    names = list(names)
    return ", ".join(names[:n]) + (", …" if len(names) > n else "")


def unreadable(reasons: Mapping[str, str], sentence: str) -> tuple[Finding, ...]:
    """A finding over files that were left out, with the reason for each; none if there are none.

    >>> unreadable({"a.jpg": "is cut off"}, "1 file was left out.")[0].items
    ('a.jpg: is cut off',)
    """
    if not reasons:
        return ()
    items = tuple(f"{name}: {reason}" for name, reason in reasons.items())
    return (Finding(kind="unreadable", sentence=sentence, items=items),)


def check_classes(rows: Sequence[Row] | Sequence[Example], wording: Wording) -> tuple[str, ...]:
    """The classes of the training part, sorted by name, each with at least 2 examples.

    Raises: DataError if the training part is empty or has one class, or a class has 1 example.

    >>> wording = Wording(source="photos", before="photos/", remove="the folder")
    >>> check_classes([Row(id=str(i), label="ab"[i % 2]) for i in range(4)], wording)
    ('a', 'b')
    """
    sizes: dict[str, int] = {}
    for row in rows:
        if row.split == "train":
            sizes[row.label] = sizes.get(row.label, 0) + 1
    source, remove, noun = wording.source, wording.remove, wording.noun
    if not sizes:
        raise DataError(f"{source} holds no training {noun}; add at least 2 for each class")
    if len(sizes) == 1:
        cure = wording.one_class or "add examples of a second one"
        raise DataError(f'{source} has one class ("{next(iter(sizes))}") and 2 are needed; {cure}')
    small = sorted(label for label, size in sizes.items() if size < 2)
    if len(small) == 1:
        raise DataError(
            f"{wording.place(small[0])} has 1 training {noun}; a class needs at least 2. "
            f"Add one or remove {remove}."
        )
    if small:
        raise DataError(
            f"{source}: {len(small):,} of {len(sizes):,} classes have 1 training {noun} "
            f"({some(small)}); a class needs at least 2. Add {noun}s, or check which column "
            "or folder holds the label."
        )
    return tuple(sorted(sizes))


# ---- How much of a data set may be left out because it cannot be read.


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
