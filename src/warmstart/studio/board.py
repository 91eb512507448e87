"""The board: pictures under their classes, and changes that can be undone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmstart.errors import UsageError
from warmstart.records.data import SEPARATOR, Split, Task
from warmstart.studio.sorting import SORTINGS, normalise_label, normalise_name

Labels = Mapping[str, str]


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

    `kept`: labels that a person confirmed, whatever a model predicts. Several labels of a picture
    are separated by `|`, and each has a column.
    """

    classes: tuple[str, ...] = ()
    labels: Labels = field(default_factory=dict)
    kept: Labels = field(default_factory=dict)
    task: Task = "classify"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardChange:
    """One step: (before, after) of labels, classes and confirmed labels; `what` says it in words.

    A picture that is not on the board has the label None. Changes of one `batch`, such as the
    requests of one drop of files, are undone together.
    """

    what: str
    labels: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    kept: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    renamed: tuple[str, str] | None = None
    batch: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.labels and not self.kept and self.classes is None


def apply(board: Board, change: BoardChange) -> Board:
    """The board after a change.

    >>> board = Board(("cat",), {"a": "cat"})
    >>> apply(board, set_label(board, ["a"], None)).labels
    {}
    """
    classes = board.classes if change.classes is None else change.classes[1]
    labels, kept = _after(board.labels, change.labels), _after(board.kept, change.kept)
    return Board(classes, labels, kept, board.task)


def _after(labels: Labels, changed: Mapping[str, tuple[str | None, str | None]]) -> Labels:
    if not changed:
        return labels
    new = dict(labels)
    for id, (_, after) in changed.items():
        if after is None:
            new.pop(id, None)
        else:
            new[id] = after
    return new


def invert(change: BoardChange) -> BoardChange:
    """The change that undoes a change.

    >>> board = Board(("cat",), {"a": "cat"})
    >>> off = set_label(board, ["a"], None)
    >>> apply(apply(board, off), invert(off)) == board
    True
    """
    labels, kept = (
        {id: (after, before) for id, (before, after) in one.items()}
        for one in (change.labels, change.kept)
    )
    classes = change.classes and (change.classes[1], change.classes[0])
    renamed = change.renamed and (change.renamed[1], change.renamed[0])
    return replace(change, labels=labels, kept=kept, classes=classes, renamed=renamed)


def merge(first: BoardChange, second: BoardChange) -> BoardChange:
    """Two additions of one batch as one.

    >>> board = Board()
    >>> first = replace(set_label(board, ["a"], "cat"), batch="1")
    >>> second = replace(set_label(apply(board, first), ["b"], "dog"), batch="1")
    >>> both = merge(first, second)
    >>> both.what, apply(board, both).classes
    ('added 2 pictures', ('cat', 'dog'))
    """
    labels = dict(first.labels)
    for id, (before, after) in second.labels.items():
        labels[id] = (labels[id][0] if id in labels else before, after)
    ends = [one.classes for one in (first, second) if one.classes is not None]
    names = {after for _, after in labels.values()}
    to = f" to {names.pop()}" if len(names) == 1 else ""
    return replace(
        first,
        labels=labels,
        what=f"added {_pictures(len(labels))}{to}",
        classes=(ends[0][0], ends[-1][1]) if ends else None,
    )


def set_label(board: Board, ids: Iterable[str], label: str | None) -> BoardChange:
    """Give pictures a class, which may be new, or take them off the board (None).

    >>> set_label(Board(("cat", "dog"), {"a": "cat", "b": "dog"}), ["a", "b"], "dog").what
    'moved 1 picture to dog'
    """
    sorting = SORTINGS[board.task]
    label = None if label is None else sorting.normalise(label)
    now = {id: (board.labels.get(id), label) for id in ids}
    labels = {id: pair for id, pair in now.items() if pair[0] != pair[1]}
    are_new = all(before is None for before, _ in labels.values())
    moved = "moved" if board.task == "classify" else "set"
    verb = "took" if label is None else "added" if are_new else moved
    end = "off the board" if label is None else f"to {label_words(label)}"
    classes = _with_classes(board, () if label is None else sorting.names(label))
    return BoardChange(
        what=f"{verb} {_pictures(len(labels))} {end}", labels=labels, classes=classes
    )


def toggle_label(board: Board, ids: Iterable[str], name: str, is_on: bool) -> BoardChange:
    """Add one label to pictures, or remove it; their other labels stay.

    Raises: UsageError where a picture has one class, or a number.

    >>> board = Board(("cat",), {"a": "cat", "b": ""}, task="multilabel")
    >>> toggle_label(board, ["a", "b"], "owl", True).labels
    {'a': ('cat', 'cat|owl'), 'b': ('', 'owl')}
    """
    if board.task != "multilabel":
        raise UsageError("a picture has one label here; replace it instead.")
    sorting, name = SORTINGS[board.task], normalise_label(name)
    labels = {}
    for id in ids:
        before = board.labels.get(id, "")
        rest = [other for other in sorting.names(before) if other != name]
        after = sorting.normalise(SEPARATOR.join([*rest, name] if is_on else rest))
        if after != before:
            labels[id] = (board.labels.get(id), after)
    pictures = _pictures(len(labels))
    what = f"added the label {name} to {pictures}"
    if not is_on:
        what = f"removed the label {name} from {pictures}"
    classes = _with_classes(board, (name,) if is_on else ())
    return BoardChange(what=what, labels=labels, classes=classes)


def label_words(label: str) -> str:
    """A label in words.

    >>> label_words("cat|owl"), label_words("")
    ('cat, owl', 'no label')
    """
    return label.replace(SEPARATOR, ", ") or "no label"


def _with_classes(
    board: Board, names: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The classes before and after, where some of `names` are new."""
    new = [name for name in dict.fromkeys(names) if name not in board.classes]
    return (board.classes, (*board.classes, *new)) if new else None


def add_pictures(board: Board, labels: Labels) -> BoardChange:
    """Put pictures on the board, each with its class."""
    sorting = SORTINGS[board.task]
    labels = {id: sorting.normalise(label) for id, label in labels.items()}
    return BoardChange(
        what=f"added {_pictures(len(labels))}",
        labels={id: (board.labels.get(id), label) for id, label in labels.items()},
        classes=_with_classes(
            board, (n for label in labels.values() for n in sorting.names(label))
        ),
    )


def confirm_labels(board: Board, ids: Iterable[str]) -> BoardChange:
    """Confirm the labels of these pictures.

    >>> confirm_labels(Board(("cat",), {"a": "cat"}), ["a"]).kept
    {'a': (None, 'cat')}
    """
    now = {id: (board.kept.get(id), board.labels.get(id)) for id in ids}
    kept = {id: pair for id, pair in now.items() if pair[1] is not None and pair[0] != pair[1]}
    n = len(kept)
    return BoardChange(
        what=f"confirmed the {'label' if n == 1 else 'labels'} of {_pictures(n)}", kept=kept
    )


def add_class(board: Board, name: str) -> BoardChange:
    """Add an empty class. Raises: UsageError where there is one of that name."""
    name = _normalise(board, name)
    _check_new(board, name)
    return BoardChange(
        what=f"added the {_noun(board)} {name}", classes=(board.classes, (*board.classes, name))
    )


def renamed(board: Board, old: str, new: str) -> BoardChange:
    """Rename a class. Raises: UsageError where there is none, or one of the new name."""
    new = _normalise(board, new)
    _check_known(board, old)
    if new == old:
        return BoardChange(what="changed nothing")
    _check_new(board, new)
    sorting = SORTINGS[board.task]

    def changed(labels: Labels) -> dict[str, tuple[str | None, str | None]]:
        now = {id: (label, sorting.rename(label, old, new)) for id, label in labels.items()}
        return {id: pair for id, pair in now.items() if pair[0] != pair[1]}

    return BoardChange(
        what=f"renamed {old} to {new}",
        labels=changed(board.labels),
        kept=changed(board.kept),
        classes=(board.classes, tuple(new if name == old else name for name in board.classes)),
        renamed=(old, new),
    )


def remove_class(board: Board, name: str) -> BoardChange:
    """Remove a class with its pictures. Raises: UsageError where there is none.

    One of several labels is removed from its pictures, which stay.
    """
    _check_known(board, name)
    sorting = SORTINGS[board.task]
    own = {id: label for id, label in board.labels.items() if name in sorting.names(label)}
    left = tuple(one for one in board.classes if one != name)
    return BoardChange(
        what=f"removed the {_noun(board)} {name}" + (f" with {_pictures(len(own))}" if own else ""),
        labels={id: (label, sorting.without(label, name)) for id, label in own.items()},
        classes=(board.classes, left),
    )


def problem_of(board: Board, pictures: Mapping[str, BoardPicture]) -> str:
    """Why a board cannot be trained on yet; empty if it can."""
    order = {name: index for index, name in enumerate(board.classes)}
    labels = [label for id, label in board.labels.items() if pictures[id].split != "test"]
    labels.sort(key=lambda label: order.get(label, len(order)))
    return SORTINGS[board.task].problem(labels)


def _normalise(board: Board, name: str) -> str:
    """The name of a column. Raises: UsageError for numbers, which have none."""
    if board.task == "regress":
        raise UsageError("pictures have numbers here, not classes.")
    return normalise_label(name) if board.task == "multilabel" else normalise_name(name)


def _noun(board: Board) -> str:
    return "label" if board.task == "multilabel" else "class"


def _pictures(n: int) -> str:
    return f"{n:,} picture" + ("" if n == 1 else "s")


def _check_new(board: Board, name: str) -> None:
    if name in board.classes:
        raise UsageError(f"there is a {_noun(board)} {name} already; choose another name.")


def _check_known(board: Board, name: str) -> None:
    if name not in board.classes:
        known: Sequence[str] = board.classes[:10]
        raise UsageError(
            f"there is no {_noun(board)} {name}; there are {', '.join(known) or 'none'}."
        )
