"""How labels are read, task by task: their texts, the names they hold, what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from warmstart.data.dataset import Columns, Listing, Row
from warmstart.data.parsing import LABEL_NAMES, Roles, Table, find_column, nonempty_cells
from warmstart.errors import DataError
from warmstart.formatting import first_few
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Wording, count
from warmstart.records.data import SEPARATOR, Example, TaskOption
from warmstart.tasks.registry import TASKS, task_of_form
from warmstart.tasks.task import Form, Target

# ---- The labels of a table: one column of them, lists in JSON lines, or a column of 0 and 1 each.

MAX_NUMERIC_CLASSES = 20  # more different fractions than this are measurements
_ONES = {"1": True, "0": False, "true": True, "false": False, "1.0": True, "0.0": False}


@dataclass(frozen=True, slots=True)
class LabelCells:
    """A text a row, their form as in `Listing`, and the names of columns that are outputs."""

    texts: Sequence[str]
    form: Form = "texts"
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
    if columns.task != "auto" and TASKS[columns.task].has_label_sets:
        # An empty cell is an example without labels.
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


# ---- Labels by their task.

Rows = Sequence[Row] | Sequence[Example]


def task_for(option: TaskOption, listing: Listing) -> Target:
    """The task that an option names; "auto" is the one that the labels plainly make."""
    return task_of_form(listing.form) if option == "auto" else TASKS[option]


def normalise(listing: Listing, target: Target, *, are_corrections: bool = False) -> Listing:
    """The listing with labels as records hold them. Raises: DataError for an invalid label.

    `are_corrections`: a person or `label_issues.csv` wrote them.
    """
    source = listing.wording.source
    if listing.form == "sets":
        if target.form == "sets":
            return listing
        an = MODALITIES[listing.kind].nouns.an
        raise DataError(f"{source} has several labels {an}{target.no_sets}")
    if listing.label_problem and target.has_classes:
        raise DataError(listing.label_problem)
    labels, ids = [row.label for row in listing.rows], [row.id for row in listing.rows]
    parsed = target.parse(labels, ids, source, are_corrections=are_corrections)
    rows = tuple(
        row if row.label == label else replace(row, label=label)
        for row, label in zip(listing.rows, parsed, strict=True)
    )
    return replace(listing, rows=rows, form=target.form, label_problem="")


def check_labels(
    rows: Rows, outputs: Sequence[str], wording: Wording, target: Target
) -> tuple[str, ...]:
    """The names of the outputs; `outputs` are those that the source names itself.

    Raises: DataError if the training set cannot teach them.
    """
    labels = [row.label for row in rows if row.split == "train"]
    return target.check(labels, outputs, wording)


def check_remaining(
    outputs: Sequence[str], examples: Sequence[Example], wording: Wording, why: str, target: Target
) -> tuple[str, ...]:
    """The outputs of what remains of a data set; none of `outputs` may be missing.

    Raises: DataError naming a missing class with `why`, or as `check_labels`.
    """
    names = {n for e in examples if e.split == "train" for n in target.names(e.label)}
    missing = [name for name in outputs if name not in names and not target.has_numbers]
    if missing:
        raise DataError(f"{wording.place(missing[0])}: {why}, or remove {wording.remove}.")
    return check_labels(examples, outputs, wording, target)


def check_split_labels(
    rows: Rows, outputs: tuple[str, ...], wording: Wording, target: Target
) -> None:
    """Raise a DataError for a hold-out or test label that the training set does not have."""
    classes = set(outputs)
    for split, word in (("holdout", "hold-out"), ("test", "test")):
        names = [name for row in rows if row.split == split for name in target.names(row.label)]
        new = [name for name in names if name not in classes]
        if new:
            label = min(new)
            raise DataError(
                f'{wording.source}: the {word} set has the class "{label}" '
                f"({count(new.count(label), wording.noun)}), which the training set does "
                f"not have. Training classes: {first_few(outputs)}. Add training {wording.noun}s "
                f"of it, correct its spelling, or remove it from the {word} set."
            )
