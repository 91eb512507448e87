"""What labels are, task by task: how texts are read, which names they hold, what is refused.

A source gives each row its label as a text. Which task that makes is the user's word, or is
plain from the labels themselves: a matrix or lists make several labels an example, measurements
make numbers. Everything else stays what it is, one class an example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from warmstart.data.dataset import Columns, Listing, Row, Wording, check_classes, some
from warmstart.data.parsing import LABEL_NAMES, Roles, Table, doubt_of, filled, find_column
from warmstart.errors import DataError
from warmstart.nouns import count, nouns_of
from warmstart.records.data import SEPARATOR, Example, Task, split_labels
from warmstart.tasks.regress import as_text

# ---- The labels of a table: one column of them, lists in JSON lines, or a column of 0 and 1 each.


_ONES = {"1": True, "0": False, "true": True, "false": False, "1.0": True, "0.0": False}


@dataclass(frozen=True, slots=True)
class LabelCells:
    """A text a row, what they plainly are, and the names of columns that are outputs."""

    texts: Sequence[str]
    form: Literal["texts", "sets", "numbers"]
    outputs: tuple[str, ...]
    doubt: str = ""  # why they are no classes


def several(label: str | None, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that `--label A,B` names; none where a column is called just so.

    >>> several("a, b", ["path", "a", "b"]), several("a,b", ["path", "a,b"]), several("a", ["a"])
    (('a', 'b'), (), ())
    """
    if label is None or "," not in label or label in columns:
        return ()
    return tuple(name.strip() for name in label.split(",") if name.strip())


def label_column(table: Table, columns: Columns, shown: str) -> str:
    """The column of labels, or the names of several. Raises: DataError where there is none."""
    named = several(columns.label, table.columns)
    each = [find_column(table.columns, name, LABEL_NAMES, "label", shown) for name in named]
    return ", ".join(each) or find_column(table.columns, columns.label, LABEL_NAMES, "label", shown)


def read_labels(table: Table, roles: Roles, columns: Columns, shown: str) -> LabelCells:
    """The labels in one column, or in several of 0 and 1.

    Raises: DataError naming the line of a cell that is none.
    """
    named = several(columns.label, table.columns)
    if named:
        names = [find_column(table.columns, name, (), "label", shown) for name in named]
        return LabelCells(_joined(table, names, shown), "sets", tuple(names))
    lists = table.lists(roles.label) if table.lists else None
    if lists is not None:
        return LabelCells([_names(names, shown) for names in lists], "sets", ())
    if columns.task == "multilabel":  # an empty cell says that nothing is there
        texts = [(cell or "").strip() for cell in table.texts(roles.label)]
        return LabelCells(texts, "texts", ())
    texts = filled(table, roles.label, "label", shown)
    doubt, is_measured = doubt_of(table, texts, roles, shown)
    return LabelCells(texts, "numbers" if is_measured else "texts", (roles.label,), doubt)


def _names(names: Sequence[str], shown: str) -> str:
    bad = next((name for name in names if SEPARATOR in name), None)
    if bad is not None:
        raise DataError(f'{shown}: the label "{bad}" holds {SEPARATOR!r}; call it something else')
    return SEPARATOR.join(sorted({name.strip() for name in names} - {""}))


def _joined(table: Table, columns: Sequence[str], shown: str) -> list[str]:
    """The names of the columns that hold 1, row by row."""
    rows: list[list[str]] = [[] for _ in table.lines]
    for column in columns:
        for row, cell in enumerate(table.texts(column)):
            is_on = _ONES.get((cell or "").strip().casefold())
            if is_on is None:
                raise DataError(
                    f'{shown} {table.where(row)}: "{column}" is "{cell}"; columns of several '
                    "labels hold 0 or 1. Name one column with --label for other labels."
                )
            if is_on:
                rows[row].append(column)
    return [_names(names, shown) for names in rows]


# ---- Several labels in one cell: what stands between them is found out once for a column.


_MARKS = ("|", ";", ",")


def split_cells(cells: Sequence[str], shown: str) -> list[list[str]]:
    """The names in each cell, without white space around them; an empty cell has none.

    `|`, `;` or `,` separate, whichever occurs; where none does, white space, if so the cells
    are made of fewer different names. JSON lists come here joined already.
    Raises: DataError where two of the marks occur, so that neither is plain.

    >>> split_cells(["cat; dog", "dog", ""], "t.csv")
    [['cat', 'dog'], ['dog'], []]
    >>> split_cells(["a b", "b c", "a c", "a b c"], "t.csv")[3]
    ['a', 'b', 'c']
    """
    if _mark(cells, shown) is None:
        words = [cell.split() for cell in cells]
        if len({word for cell in words for word in cell}) < len(set(cells) - {""}):
            return words
    return split_marked(cells, shown)


def split_marked(cells: Sequence[str], shown: str) -> list[list[str]]:
    """The same, but white space never separates. Raises: as `split_cells`.

    >>> split_marked(["long sleeve", ""], "t.csv")
    [['long sleeve'], []]
    """
    mark = _mark(cells, shown)
    split = [[cell] if mark is None else cell.split(mark) for cell in cells]
    return [[name.strip() for name in cell if name.strip()] for cell in split]


def _mark(cells: Sequence[str], shown: str) -> str | None:
    """What separates names; None where nothing does."""
    found = [mark for mark in _MARKS if any(mark in cell for cell in cells)]
    if len(found) > 1:
        first = next(cell for cell in cells if found[1] in cell)
        raise DataError(
            f'{shown} has {" and ".join(map(repr, found))} in its labels (such as "{first}"); '
            f"put one of them between labels, such as {SEPARATOR!r}"
        )
    return found[0] if found else None


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
    "classify": CLASS_LABELS,
    "multilabel": SeveralLabels(),
    "regress": NumberLabels(),
}
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
