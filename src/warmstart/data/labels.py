"""How labels are read, task by task: their texts, the names they hold, what is refused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from warmstart.data.dataset import Columns, Listing, Row, Wording
from warmstart.data.parsing import (
    LABEL_NAMES,
    Roles,
    Table,
    find_column,
    nonempty_cells,
)
from warmstart.errors import DataError
from warmstart.formatting import first_few
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import count
from warmstart.records.data import SEPARATOR, Example, Task, split_labels
from warmstart.tasks.regress import as_text

# ---- The labels of a table: one column of them, lists in JSON lines, or a column of 0 and 1 each.

MAX_NUMERIC_CLASSES = 20  # more different fractions than this are measurements
_ONES = {"1": True, "0": False, "true": True, "false": False, "1.0": True, "0.0": False}


@dataclass(frozen=True, slots=True)
class LabelCells:
    """A text a row, their form as in `Listing`, and the names of columns that are outputs."""

    texts: Sequence[str]
    form: Literal["texts", "sets", "numbers"] = "texts"
    outputs: tuple[str, ...] = ()
    problem: str = ""  # why they cannot be classes


def several(label: str | None, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that `--label A,B` names; none if there is a column "A,B"."""
    if label is None or "," not in label or label in columns:
        return ()
    return tuple(name.strip() for name in label.split(",") if name.strip())


def label_column(table: Table, columns: Columns, source: str) -> str:
    """The column of labels, or the names of several. Raises: DataError if there is none."""
    names = several(columns.label, table.columns) or (columns.label,)
    return ", ".join(
        find_column(table.columns, name, LABEL_NAMES, "label", source) for name in names
    )


def read_roles(table: Table, path: str | None, columns: Columns, source: str) -> Roles:
    """The roles of the columns; `path` is that of the examples, None for plain rows."""
    label = label_column(table, columns, source)
    group = columns.group and find_column(table.columns, columns.group, (), "group", source)
    split = next((c for c in table.columns if c.casefold() == "split"), None)
    return Roles(path=path or label, label=label, group=group or None, split=split)


def read_labels(table: Table, roles: Roles, columns: Columns, source: str) -> LabelCells:
    """The labels in one column, or in several of 0 and 1."""
    if names := several(columns.label, table.columns):
        outputs = [find_column(table.columns, name, (), "label", source) for name in names]
        return LabelCells(_join_indicators(table, outputs, source), "sets", tuple(outputs))
    lists = table.lists(roles.label) if table.lists else None
    if lists is not None:
        return LabelCells([_join(row, source) for row in lists], "sets")
    if columns.task == "multilabel":  # an empty cell is an example without labels
        return LabelCells([(cell or "").strip() for cell in table.texts(roles.label)])
    texts = nonempty_cells(table, roles.label, "label", source)
    problem, is_measured = _find_label_problem(table, texts, roles, source)
    return LabelCells(texts, "numbers" if is_measured else "texts", (roles.label,), problem)


def _join(names: Sequence[str], source: str) -> str:
    bad = next((name for name in names if SEPARATOR in name), None)
    if bad is not None:
        raise DataError(f'{source}: the label "{bad}" holds {SEPARATOR!r}; call it something else')
    return SEPARATOR.join(sorted({name.strip() for name in names} - {""}))


def _join_indicators(table: Table, columns: Sequence[str], source: str) -> list[str]:
    """The names of the columns that hold 1, row by row."""
    rows: list[list[str]] = [[] for _ in table.lines]
    for column in columns:
        for row, cell in enumerate(table.texts(column)):
            is_on = _ONES.get((cell or "").strip().casefold())
            if is_on is None:
                raise DataError(
                    f'{source} {table.where(row)}: "{column}" is "{cell}"; columns of several '
                    "labels hold 0 or 1. Name one column with --label for other labels."
                )
            if is_on:
                rows[row].append(column)
    return [_join(names, source) for names in rows]


def _find_label_problem(
    table: Table, labels: Sequence[str], roles: Roles, source: str
) -> tuple[str, bool]:
    """Why a column cannot hold classes, "" if it can, and whether it holds measurements."""
    n, values = len(labels), set(labels)
    numbers = [_finite(label) for label in values]
    is_measured = None not in numbers and any(x is not None and x % 1 for x in numbers)
    if is_measured and len(values) > min(MAX_NUMERIC_CLASSES, max(n // 2, 2)):
        problem = (
            f'{source}: "{roles.label}" holds measurements ({first_few(labels, 3)}), not classes; '
            "use --task regress to learn them, or name a column of classes with --label"
        )
        return problem, True
    if n <= 2 or len(values) < n:
        return "", False
    others = [c for c in table.columns if c not in (roles.path, roles.label, roles.split)]
    likely = next((c for c in others if _looks_like_classes(table.texts(c))), None)
    remedy = f"did you mean --label {likely}?" if likely else "name another one with --label"
    problem = (
        f'{source}: all {n:,} labels in "{roles.label}" are different, so they cannot be classes; '
        f"{remedy}"
    )
    return problem, False


def _finite(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _looks_like_classes(cells: Sequence[str | None]) -> bool:
    return all(cells) and 2 <= len(set(cells)) <= len(cells) // 2


# ---- Several labels in one cell: the separator is determined once for a column.

_SEPARATORS = ("|", ";", ",")


def _split_cells(cells: Sequence[str], source: str, *, at_spaces: bool) -> list[list[str]]:
    """The names in each cell: `|`, `;` or `,` separate, whichever occurs.

    If none does, white space does `at_spaces`, if the cells then hold fewer different names.
    """
    separators = [mark for mark in _SEPARATORS if any(mark in cell for cell in cells)]
    if len(separators) > 1:
        first = next(cell for cell in cells if separators[1] in cell)
        raise DataError(
            f"{source} has {' and '.join(map(repr, separators))} in its labels (such as "
            f'"{first}"); put one of them between labels, such as {SEPARATOR!r}'
        )
    if separators:
        split = [cell.split(separators[0]) for cell in cells]
        return [[name.strip() for name in names if name.strip()] for names in split]
    words = [cell.split() for cell in cells]
    if at_spaces and len({word for cell in words for word in cell}) < len(set(cells) - {""}):
        return words
    return [[cell.strip()] if cell.strip() else [] for cell in cells]


TaskOption = Literal["auto", "classify", "multilabel", "regress"]
Rows = Sequence[Row] | Sequence[Example]
MIN_EXAMPLES = 2  # training examples with a label, and as many without it
MAX_VALUE = 1e100  # of numbers to learn, whose squares are added up


class Labelling(ABC):
    """How the labels of one task are read."""

    task: Task
    is_open = False  # whether an example may have no label at all

    @abstractmethod
    def normalise(self, listing: Listing, *, are_corrections: bool = False) -> Listing:
        """The listing with labels as records hold them. Raises: DataError for an invalid label.

        `are_corrections`: a person or `label_issues.csv` wrote them.
        """

    @abstractmethod
    def names(self, label: str) -> tuple[str, ...]:
        """The names in a label as records hold it."""

    @abstractmethod
    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        """The names of the outputs; `outputs` are those that the source names itself.

        Raises: DataError if the training set cannot teach them.
        """


class ClassLabels(Labelling):
    """One class an example."""

    task = "classify"

    def normalise(self, listing: Listing, *, are_corrections: bool = False) -> Listing:
        if listing.form == "sets":
            raise DataError(
                f"{listing.wording.source} has several labels {MODALITIES[listing.kind].nouns.an}; "
                "use --task multilabel, or name one column of classes with --label"
            )
        if listing.label_problem:
            raise DataError(listing.label_problem)
        return listing

    def names(self, label: str) -> tuple[str, ...]:
        return (label,)

    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        sizes = Counter(row.label for row in rows if row.split == "train")
        source, noun = wording.source, wording.noun
        if not sizes:
            raise DataError(f"{source} holds no training {noun}; add at least 2 for each class")
        if len(sizes) == 1:
            remedy = wording.one_class or "add examples of a second one"
            raise DataError(f'{source} has one class ("{min(sizes)}") and 2 are needed; {remedy}')
        small = sorted(label for label, size in sizes.items() if size < 2)
        if len(small) == 1:
            raise DataError(
                f"{wording.place(small[0])} has 1 training {noun}; a class needs at least 2. "
                f"Add one or remove {wording.remove}."
            )
        if small:
            raise DataError(
                f"{source}: {len(small):,} of {len(sizes):,} classes have 1 training {noun} "
                f"({first_few(small)}); a class needs at least 2. Add {noun}s, or check which "
                "column or folder holds the label."
            )
        return tuple(sorted(sizes))


class SeveralLabels(Labelling):
    """Any of several labels an example: sorted names joined by `|`."""

    task = "multilabel"
    is_open = True

    def normalise(self, listing: Listing, *, are_corrections: bool = False) -> Listing:
        if listing.form == "sets":
            return listing
        # A few corrections do not show whether white space separates.
        labels, source = [row.label for row in listing.rows], listing.wording.source
        cells = _split_cells(labels, source, at_spaces=not are_corrections)
        rows = zip(listing.rows, cells, strict=True)
        joined = tuple(replace(row, label=SEPARATOR.join(sorted(set(c)))) for row, c in rows)
        return replace(listing, rows=joined, form="sets", label_problem="")

    def names(self, label: str) -> tuple[str, ...]:
        return split_labels(label)

    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        train = [split_labels(row.label) for row in rows if row.split == "train"]
        sizes = dict.fromkeys(outputs, 0) | Counter(name for names in train for name in names)
        source, noun = wording.source, wording.noun
        if not train:
            raise DataError(f"{source} holds no training {noun}; add at least 2 for each label")
        if len(sizes) < 2:
            raise DataError(
                f"{source} has {count(len(sizes), 'label')} and --task multilabel needs 2; with "
                "one, call its presence and absence two classes and use --task classify"
            )
        for name, size in sorted(sizes.items()):
            if not size:
                raise DataError(
                    f'{source}: no training {noun} has the label "{name}"; leave it out'
                )
            if size < MIN_EXAMPLES:
                raise DataError(
                    f'{source}: 1 training {noun} has the label "{name}", a label needs at '
                    f"least {MIN_EXAMPLES}; add one, or remove the label"
                )
            if size > len(train) - MIN_EXAMPLES:
                raise DataError(
                    f"{source}: {size:,} of {len(train):,} training {noun}s have the label "
                    f'"{name}", and at least {MIN_EXAMPLES} are needed without it; leave it out'
                )
        return tuple(outputs) or tuple(sorted(sizes))


class NumberLabels(Labelling):
    """A number an example."""

    task = "regress"

    def normalise(self, listing: Listing, *, are_corrections: bool = False) -> Listing:
        source = listing.wording.source
        if listing.form == "sets":
            raise DataError(
                f"{source} has several labels {MODALITIES[listing.kind].nouns.an} and --task "
                "regress takes one number; name one column with --label, or use --task multilabel"
            )
        rows = tuple(replace(row, label=_number_label(row, source)) for row in listing.rows)
        return replace(listing, rows=rows, form="numbers", label_problem="")

    def names(self, label: str) -> tuple[str, ...]:
        return ()

    def check(self, rows: Rows, wording: Wording, outputs: Sequence[str]) -> tuple[str, ...]:
        source, values = wording.source, [row.label for row in rows if row.split == "train"]
        if not values:
            raise DataError(f"{source} holds no training {wording.noun}; add some with numbers")
        if len(set(values)) == 1:
            raise DataError(
                f"{source}: all {len(values):,} numbers are {values[0]}, so there is nothing to "
                "learn; name another column with --label"
            )
        largest = max(values, key=lambda value: abs(float(value)))
        if abs(float(largest)) > MAX_VALUE:
            raise DataError(
                f"{source}: a number is {largest}, too large to be squared; divide all of them by "
                "a power of ten"
            )
        return tuple(outputs[:1]) or ("value",)


def _number_label(row: Row, source: str) -> str:
    try:
        value = float(row.label)
    except ValueError:
        raise DataError(
            f'{source}: the label of {row.id} is "{row.label}", which is not a number; correct it, '
            "or use --task classify"
        ) from None
    if not math.isfinite(value):
        raise DataError(
            f"{source}: the label of {row.id} is {row.label}; fill it in or remove the row"
        )
    return as_text(value)


LABELLINGS: dict[Task, Labelling] = {
    "classify": ClassLabels(),
    "multilabel": SeveralLabels(),
    "regress": NumberLabels(),
}
_FORMS: dict[str, Task] = {"texts": "classify", "sets": "multilabel", "numbers": "regress"}


def labelling_for(task: TaskOption, listing: Listing) -> Labelling:
    """How the labels of `task` are read; "auto" is the task that the labels plainly make."""
    return LABELLINGS[_FORMS[listing.form] if task == "auto" else task]


def check_remaining(
    outputs: Sequence[str], examples: Sequence[Example], wording: Wording, why: str, task: Task
) -> tuple[str, ...]:
    """The outputs of what remains of a data set; none of `outputs` may be missing.

    Raises: DataError naming a missing class with `why`, or as `Labelling.check`.
    """
    labelling = LABELLINGS[task]
    names = {n for e in examples if e.split == "train" for n in labelling.names(e.label)}
    missing = [name for name in outputs if name not in names] if task != "regress" else []
    if missing:
        raise DataError(f"{wording.place(missing[0])}: {why}, or remove {wording.remove}.")
    return labelling.check(examples, wording, outputs if task != "classify" else ())


def check_split_labels(rows: Rows, outputs: tuple[str, ...], wording: Wording, task: Task) -> None:
    """Raise a DataError for a hold-out or test label that the training set does not have."""
    labelling, classes = LABELLINGS[task], set(outputs)
    for split, word in (("holdout", "hold-out"), ("test", "test")):
        names = [name for row in rows if row.split == split for name in labelling.names(row.label)]
        new = [name for name in names if name not in classes]
        if new:
            label = min(new)
            raise DataError(
                f'{wording.source}: the {word} set has the class "{label}" '
                f"({count(new.count(label), wording.noun)}), which the training set does "
                f"not have. Training classes: {first_few(outputs)}. Add training {wording.noun}s "
                f"of it, correct its spelling, or remove it from the {word} set."
            )
