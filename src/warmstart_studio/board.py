"""The board: pictures under their classes, and changes that can be undone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from warmstart.errors import UsageError
from warmstart.nouns import count
from warmstart.records.data import SEPARATOR, Split, Task
from warmstart.tasks.registry import TASKS

Labels = Mapping[str, str]
Pairs = dict[str, tuple[str | None, str | None]]  # labels before and after, by picture
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardPicture:
    """One picture of the studio, on the board or not.

    `file` is the name of the studio's copy; `source` the path of the user's file in their data set
    or in the folder that was dropped.
    """

    id: str
    name: str
    file: str
    sha256: str
    width: int
    height: int
    split: Split = "train"
    group: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """Classes in the order of their columns, and the class of each picture on the board.

    `confirmed`: labels that a person confirmed, whatever a model predicts. Several labels of a
    picture are separated by `|`, and each has a column.
    """

    classes: Names = ()
    labels: Labels = field(default_factory=dict)
    confirmed: Labels = field(default_factory=dict)
    task: Task = TASKS["classify"].task


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardChange:
    """One step: (before, after) of labels, classes and confirmed labels; `what` says it in words.

    A picture that is not on the board has the label None. Changes of one `batch`, such as the
    requests of one drop of files, are undone together.
    """

    what: str
    labels: Pairs = field(default_factory=dict)
    classes: tuple[Names, Names] | None = None
    confirmed: Pairs = field(default_factory=dict)
    renamed: tuple[str, str] | None = None
    batch: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.labels and not self.confirmed and self.classes is None


def apply(board: Board, change: BoardChange) -> Board:
    """The board after a change."""
    classes = board.classes if change.classes is None else change.classes[1]
    labels = _after(board.labels, change.labels)
    return Board(classes, labels, _after(board.confirmed, change.confirmed), board.task)


def _after(labels: Labels, changes: Pairs) -> Labels:
    if not changes:
        return labels
    after = dict(labels) | {id: label for id, (_, label) in changes.items()}
    return {id: label for id, label in after.items() if label is not None}


def invert(change: BoardChange) -> BoardChange:
    """The change that undoes a change."""
    labels, confirmed = (
        {id: (after, before) for id, (before, after) in pairs.items()}
        for pairs in (change.labels, change.confirmed)
    )
    classes = change.classes and (change.classes[1], change.classes[0])
    renamed = change.renamed and (change.renamed[1], change.renamed[0])
    return replace(change, labels=labels, confirmed=confirmed, classes=classes, renamed=renamed)


def merge(first: BoardChange, second: BoardChange) -> BoardChange:
    """Two additions of one batch as one."""
    labels = dict(first.labels)
    for id, (before, after) in second.labels.items():
        labels[id] = (labels[id][0] if id in labels else before, after)
    classes = [one.classes for one in (first, second) if one.classes is not None]
    names = {after for _, after in labels.values()}
    to = f" to {names.pop()}" if len(names) == 1 else ""
    return replace(
        first,
        labels=labels,
        what=f"added {count(len(labels), 'picture')}{to}",
        classes=(classes[0][0], classes[-1][1]) if classes else None,
    )


def _pairs(before: Labels, after: Mapping[str, str | None]) -> Pairs:
    """The labels that differ, before and after."""
    pairs = {id: (before.get(id), label) for id, label in after.items()}
    return {id: pair for id, pair in pairs.items() if pair[0] != pair[1]}


def set_label(board: Board, ids: Iterable[str], label: str | None) -> BoardChange:
    """Give pictures a class, which may be new, or take them off the board (None)."""
    target = TASKS[board.task]
    label = None if label is None else target.typed(label)
    labels = _pairs(board.labels, dict.fromkeys(ids, label))
    pictures = count(len(labels), "picture")
    if label is None:
        return BoardChange(what=f"took {pictures} off the board", labels=labels)
    are_new = all(before is None for before, _ in labels.values())
    verb = "added" if are_new else "moved" if target.has_classes else "set"
    return BoardChange(
        what=f"{verb} {pictures} to {label_words(label)}",
        labels=labels,
        classes=_with_classes(board, target.names(label)),
    )


def toggle_label(board: Board, ids: Iterable[str], name: str, is_on: bool) -> BoardChange:
    """Add one label to pictures, or remove it; their other labels stay.

    Raises: UsageError where a picture has one class, or a number.
    """
    target = TASKS[board.task]
    if not target.has_label_sets:
        raise UsageError("a picture has one label here; replace it instead.")
    name = target.typed_name(name)
    labels: Pairs = {}
    for id in ids:
        before = board.labels.get(id, "")
        rest = [other for other in target.names(before) if other != name]
        after = target.typed(SEPARATOR.join([*rest, name] if is_on else rest))
        if after != before:
            labels[id] = (board.labels.get(id), after)
    verb, preposition = ("added", "to") if is_on else ("removed", "from")
    what = f"{verb} the label {name} {preposition} {count(len(labels), 'picture')}"
    classes = _with_classes(board, (name,) if is_on else ())
    return BoardChange(what=what, labels=labels, classes=classes)


def label_words(label: str) -> str:
    """A label in words."""
    return label.replace(SEPARATOR, ", ") or "no label"


def _with_classes(board: Board, names: Iterable[str]) -> tuple[Names, Names] | None:
    """The classes before and after, where some of `names` are new."""
    new = [name for name in dict.fromkeys(names) if name not in board.classes]
    return (board.classes, (*board.classes, *new)) if new else None


def add_pictures(board: Board, labels: Labels) -> BoardChange:
    """Put pictures on the board, each with its class."""
    target = TASKS[board.task]
    labels = {id: target.typed(label) for id, label in labels.items()}
    names = (name for label in labels.values() for name in target.names(label))
    return BoardChange(
        what=f"added {count(len(labels), 'picture')}",
        labels={id: (board.labels.get(id), label) for id, label in labels.items()},
        classes=_with_classes(board, names),
    )


def confirm_labels(board: Board, ids: Iterable[str]) -> BoardChange:
    """Confirm the labels of these pictures."""
    labels = {id: board.labels[id] for id in ids if id in board.labels}
    confirmed = _pairs(board.confirmed, labels)
    noun, n = "label" if len(confirmed) == 1 else "labels", count(len(confirmed), "picture")
    return BoardChange(what=f"confirmed the {noun} of {n}", confirmed=confirmed)


def add_class(board: Board, name: str) -> BoardChange:
    """Add an empty class. Raises: UsageError where there is one of that name."""
    name = TASKS[board.task].typed_name(name)
    _check_new(board, name)
    classes = (board.classes, (*board.classes, name))
    return BoardChange(what=f"added the {_noun(board)} {name}", classes=classes)


def rename_class(board: Board, old: str, new: str) -> BoardChange:
    """Rename a class. Raises: UsageError where there is none, or one of the new name."""
    target = TASKS[board.task]
    new = target.typed_name(new)
    _check_class(board, old)
    if new == old:
        return BoardChange(what="changed nothing")
    _check_new(board, new)

    def renamed(labels: Labels) -> Pairs:
        return _pairs(labels, {id: target.rename(label, old, new) for id, label in labels.items()})

    return BoardChange(
        what=f"renamed {old} to {new}",
        labels=renamed(board.labels),
        confirmed=renamed(board.confirmed),
        classes=(board.classes, tuple(new if name == old else name for name in board.classes)),
        renamed=(old, new),
    )


def remove_class(board: Board, name: str) -> BoardChange:
    """Remove a class with its pictures. Raises: UsageError where there is none.

    One of several labels is removed from its pictures, which stay.
    """
    _check_class(board, name)
    target = TASKS[board.task]
    members = {id: label for id, label in board.labels.items() if name in target.names(label)}
    rest = tuple(other for other in board.classes if other != name)
    pictures = f" with {count(len(members), 'picture')}" if members else ""
    return BoardChange(
        what=f"removed the {_noun(board)} {name}{pictures}",
        labels={id: (label, target.without(label, name)) for id, label in members.items()},
        classes=(board.classes, rest),
    )


def problem_of(board: Board, pictures: Mapping[str, BoardPicture]) -> str:
    """Why a board cannot be trained on yet; empty if it can."""
    order = {name: index for index, name in enumerate(board.classes)}
    labels = [label for id, label in board.labels.items() if pictures[id].split != "test"]
    labels.sort(key=lambda label: order.get(label, len(order)))
    return TASKS[board.task].too_few(labels)


def _noun(board: Board) -> str:
    return "label" if TASKS[board.task].has_label_sets else "class"


def _check_new(board: Board, name: str) -> None:
    if name in board.classes:
        raise UsageError(f"there is a {_noun(board)} {name} already; choose another name.")


def _check_class(board: Board, name: str) -> None:
    if name not in board.classes:
        names = ", ".join(board.classes[:10]) or "none"
        raise UsageError(f"there is no {_noun(board)} {name}; there are {names}.")
