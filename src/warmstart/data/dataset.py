"""The contents of a source: rows, how to load their bytes, and how messages name them.

`Listing` is what a layout lists before any file is read; `Collection` is what reading returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Wording
from warmstart.records.data import DataRecord, Split, TaskOption
from warmstart.records.findings import Finding
from warmstart.records.inputs import Kind, KindOption
from warmstart.tasks.task import Form

Load = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Columns named with --label, --group and --text; the --kind of the data and its --task."""

    label: str | None = None
    group: str | None = None
    text: str | None = None
    kind: KindOption = "auto"
    task: TaskOption = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One labelled file of a source, not yet read."""

    id: str
    label: str
    split: Split = "train"
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every row of a source; `load` returns the encoded bytes of a row by its id.

    `load` raises DataError with a short reason if a row cannot be read. `label_problem` says why
    the labels cannot be learnt, such as that all are different; other uses ignore it. `form`
    says what the labels plainly are; "sets" are names joined by `|`. `outputs` are the names
    of 0/1 columns, or of the column of labels. `problems` lists what is left out.
    """

    name: str
    layout: str
    title: str
    rows: tuple[Row, ...]
    load: Load
    wording: Wording
    is_table: bool = False
    label_problem: str = ""
    problems: tuple[Finding, ...] = ()
    n_harmless: int = 0  # items of `problems` that are no loss: without a label, or without pixels
    kind: Kind = IMAGE.kind
    form: Form = "texts"
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What was read: the record (data.json) and the bytes behind each example id.

    `load` may be called from several threads. Raises there: DataError if a file is gone.
    `strict` raises on what cannot be decoded instead of leaving it out.
    """

    record: DataRecord
    load: Load
    title: str  # part of a sentence: "1,300 images in photos/"
    wording: Wording
    n_harmless: int = 0  # as in `Listing`
    strict: bool = False


def as_split(listing: Listing, prefix: str, split: Split) -> Listing:
    """The listing as one split of a larger one: ids begin with `prefix`, all rows are of `split`.

    Groups are proposed for the training set only; other splits would repeat them.
    """
    load = listing.load  # and not the listing, whose rows would stay in memory with it
    return replace(
        listing,
        rows=tuple(replace(row, id=prefix + row.id, split=split) for row in listing.rows),
        load=lambda id: load(id[len(prefix) :]),
        problems=tuple(
            f for f in listing.problems if split == "train" or f.kind != "group-proposed"
        ),
    )


def concatenate(listings: Sequence[Listing], layout: str) -> Listing:
    """Listings with different ids as one, named and worded as the first."""
    loaders = {row.id: listing.load for listing in listings for row in listing.rows}
    return replace(
        listings[0],
        layout=layout,
        rows=tuple(row for listing in listings for row in listing.rows),
        load=lambda id: loaders[id](id),
        is_table=any(listing.is_table for listing in listings),
        problems=tuple(problem for listing in listings for problem in listing.problems),
        n_harmless=sum(listing.n_harmless for listing in listings),
    )


def unreadable(reasons: Mapping[str, str], sentence: str) -> tuple[Finding, ...]:
    """A finding over files that were left out, with the reason for each; none if there are none."""
    if not reasons:
        return ()
    items = tuple(f"{name}: {reason}" for name, reason in reasons.items())
    return (Finding(kind="unreadable", sentence=sentence, items=items),)


MAX_UNREADABLE = 0.1  # of the data; with more left out, the rest may be another data set


def is_too_many(n_unreadable: int, n_all: int) -> bool:
    """Whether more of all examples are unreadable than may be left out."""
    return n_unreadable > MAX_UNREADABLE * n_all


def check_unreadable(
    problems: Iterable[Finding], n_read: int, source: str, *, strict: bool, n_harmless: int = 0
) -> None:
    """Refuse data of which too much, or with `strict` anything, could not be read.

    `n_harmless` counts items that are no loss: images without a label, drawings without pixels.
    Raises: DataError naming the first of them.
    """
    items = [item for problem in problems if problem.kind == "unreadable" for item in problem.items]
    if strict and items:
        raise DataError(f"--strict: {source}: {items[0]}; repair or remove it, or drop --strict")
    n_unreadable = len(items) - n_harmless
    if is_too_many(n_unreadable, n_unreadable + n_read):
        raise DataError(
            f"{source}: {n_unreadable:,} of {n_unreadable + n_read:,} cannot be read (first: "
            f"{items[0]}), and at most a tenth may be left out; repair or remove them"
        )
