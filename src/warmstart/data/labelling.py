"""What labels are, task by task: how texts are read, which names they hold, what is refused.

A source gives each row its label as a text. Which task that makes is the user's word, or is
plain from the labels themselves: a matrix or lists make several labels an example, measurements
make numbers. Everything else stays what it is, one class an example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

from warmstart.data.collection import Listing, Row, Wording, check_classes, count, some
from warmstart.data.separators import split_cells, split_marked
from warmstart.errors import DataError
from warmstart.records import Example, Task
from warmstart.records.labels import SEPARATOR, split_labels
from warmstart.tasks.numbers import as_text
from warmstart.words import nouns_of

AskedTask = Literal["auto", "classify", "multilabel", "regress"]
Rows = Sequence[Row] | Sequence[Example]
LEAST = 2  # training images with a label, and as many without it
LARGEST = 1e100  # of numbers to learn, whose squares are added up


class Labelling(Protocol):
    """How the labels of one task are read."""

    @property
    def task(self) -> Task:
        """Its name."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether an example may have no label at all."""
        ...

    def settled(self, listing: Listing) -> Listing:
        """The listing with labels as records hold them. Raises: DataError for one that is none."""
        ...

    def corrected(self, listing: Listing) -> Listing:
        """The same of labels that a person or `label_issues.csv` wrote. Raises: DataError."""
        ...

    def names(self, label: str) -> tuple[str, ...]:
        """The names in a label as records hold it."""
        ...

    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        """The names of the outputs. Raises: DataError where the training part cannot teach them.

        `outputs`: those that the source names itself.
        """
        ...


class ClassLabels:
    """One class an example."""

    task: Task = "classify"
    is_open = False

    def settled(self, listing: Listing) -> Listing:
        """As it is. Raises: DataError where the labels are no classes."""
        if listing.form == "sets":
            raise DataError(
                f"{listing.wording.source} has several labels {nouns_of(listing.kind).an}; use "
                "--task multilabel, or name one column of classes with --label"
            )
        if listing.doubt:
            raise DataError(listing.doubt)
        return listing

    def corrected(self, listing: Listing) -> Listing:
        """The same."""
        return self.settled(listing)

    def names(self, label: str) -> tuple[str, ...]:
        """The class."""
        return (label,)

    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        """The classes."""
        return check_classes(rows, wording)


class SeveralLabels:
    """Any of several labels an example."""

    task: Task = "multilabel"
    is_open = True

    def settled(self, listing: Listing) -> Listing:
        """Sorted names with `|` between.

        >>> rows = [Row(id=str(n), label=label) for n, label in enumerate(("b, a", "a", ""))]
        >>> wording = Wording(source="t.csv", before="", remove="")
        >>> listing = Listing(name="", layout="", title="", rows=rows, load=str, wording=wording)
        >>> [row.label for row in SeveralLabels().settled(listing).rows]
        ['a|b', 'a', '']
        """
        if listing.form == "sets":
            return listing
        cells = split_cells([row.label for row in listing.rows], listing.wording.source)
        return self._joined(listing, cells)

    def corrected(self, listing: Listing) -> Listing:
        """The same, but white space never separates: few cells do not tell whether it would."""
        cells = split_marked([row.label for row in listing.rows], listing.wording.source)
        return self._joined(listing, cells)

    def _joined(self, listing: Listing, cells: Sequence[Sequence[str]]) -> Listing:
        rows = zip(listing.rows, cells, strict=True)
        joined = tuple(replace(row, label=SEPARATOR.join(sorted(set(c)))) for row, c in rows)
        return replace(listing, rows=joined, form="sets", doubt="")

    def names(self, label: str) -> tuple[str, ...]:
        """The labels."""
        return split_labels(label)

    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        """The labels, sorted by name, or in the order of their columns."""
        train = [split_labels(row.label) for row in rows if row.split == "train"]
        sizes: dict[str, int] = dict.fromkeys(outputs, 0)
        for names in train:
            for name in names:
                sizes[name] = sizes.get(name, 0) + 1
        source = wording.source
        if not train:
            raise DataError(
                f"{source} holds no training {wording.noun}; add at least 2 for each label"
            )
        if len(sizes) < 2:
            raise DataError(
                f"{source} has {count(len(sizes), 'label')} and --task multilabel needs 2; with "
                "one, call its presence and absence two classes and use --task classify"
            )
        for name, size in sorted(sizes.items()):
            if not size:
                raise DataError(
                    f'{source}: no training {wording.noun} has the label "{name}"; leave it away'
                )
            if size < LEAST:
                raise DataError(
                    f'{source}: 1 training {wording.noun} has the label "{name}", a label needs at '
                    f"least {LEAST}; add one, or remove the label"
                )
            if size > len(train) - LEAST:
                raise DataError(
                    f"{source}: {size:,} of {len(train):,} training {wording.noun}s have the label "
                    f'"{name}", and at least {LEAST} are needed without it; leave it away'
                )
        return tuple(outputs) or tuple(sorted(sizes))


class NumberLabels:
    """A number an example."""

    task: Task = "regress"
    is_open = False

    def settled(self, listing: Listing) -> Listing:
        """Numbers as texts that read back the same. Raises: DataError for a label that is none."""
        source = listing.wording.source
        if listing.form == "sets":
            raise DataError(
                f"{source} has several labels {nouns_of(listing.kind).an} and --task regress "
                "takes one number; name one column with --label, or use --task multilabel"
            )
        rows = tuple(replace(row, label=_number(row, source)) for row in listing.rows)
        return replace(listing, rows=rows, form="numbers", doubt="")

    def corrected(self, listing: Listing) -> Listing:
        """The same."""
        return self.settled(listing)

    def names(self, label: str) -> tuple[str, ...]:
        """None: numbers are no names."""
        return ()

    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        """What the number is called."""
        values = [row.label for row in rows if row.split == "train"]
        if not values:
            raise DataError(
                f"{wording.source} holds no training {wording.noun}; add some with numbers"
            )
        if len(set(values)) == 1:
            raise DataError(
                f"{wording.source}: all {len(values):,} numbers are {values[0]}, so there is "
                "nothing to learn; name another column with --label"
            )
        largest = max(values, key=lambda value: abs(float(value)))
        if abs(float(largest)) > LARGEST:
            raise DataError(
                f"{wording.source}: a number is {largest}, too large to be squared; divide all of "
                "them by a power of ten"
            )
        return tuple(outputs[:1]) or ("value",)


def _number(row: Row, source: str) -> str:
    try:
        value = float(row.label)
    except ValueError:
        raise DataError(
            f'{source}: the label of {row.id} is "{row.label}", which is no number; correct it, '
            "or use --task classify"
        ) from None
    if not math.isfinite(value):
        raise DataError(
            f"{source}: the label of {row.id} is {row.label}; fill it in or remove the row"
        )
    return as_text(value)


CLASS_LABELS = ClassLabels()
_KINDS: dict[Task, Labelling] = {
    "classify": CLASS_LABELS, "multilabel": SeveralLabels(), "regress": NumberLabels(),
}  # fmt: skip
_FORMS: dict[str, Task] = {"texts": "classify", "sets": "multilabel", "numbers": "regress"}


def labelling_of(task: Task) -> Labelling:
    """How the labels of a task are read."""
    return _KINDS[task]


def labelling_for(asked: AskedTask, listing: Listing) -> Labelling:
    """The same for what the user asked, or, with "auto", what the labels plainly are."""
    return _KINDS[_FORMS[listing.form] if asked == "auto" else asked]


def check_left(
    outputs: Sequence[str], examples: Sequence[Example], wording: Wording, why: str, task: Task
) -> tuple[str, ...]:
    """The outputs of what is left of a data set; none of `outputs` may be gone.

    Raises: DataError naming a class that is gone with `why`, or as `Labelling.check`.
    """
    labelling = labelling_of(task)
    left = {n for e in examples if e.split == "train" for n in labelling.names(e.label)}
    gone = [name for name in outputs if name not in left] if task != "regress" else []
    if gone:
        raise DataError(f"{wording.place(gone[0])}: {why}, or remove {wording.remove}.")
    return labelling.check(examples, wording, outputs if task != "classify" else ())


def check_known(rows: Rows, outputs: tuple[str, ...], wording: Wording, task: Task) -> None:
    """Refuse hold-out or test labels that the training part does not know.

    Raises: DataError naming the class and the cure.
    """
    labelling, known = labelling_of(task), set(outputs)
    for split, word in (("holdout", "hold-out"), ("test", "test")):
        own = [name for row in rows if row.split == split for name in labelling.names(row.label)]
        strangers = [name for name in own if name not in known]
        if strangers:
            label = min(strangers)
            raise DataError(
                f'{wording.source}: the {word} part has the class "{label}" '
                f"({count(strangers.count(label), wording.noun)}), which the training part does "
                f"not know. Training classes: {some(outputs)}. Add training {wording.noun}s of it, "
                f"correct its spelling, or remove it from the {word} part."
            )
