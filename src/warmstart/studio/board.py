"""Pictures under their classes, and changes to that which can be taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmstart.errors import UsageError
from warmstart.records.data import SEPARATOR, Split, Task
from warmstart.studio.sorting import SORTINGS, checked_name, label_name

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardPicture:
    """One picture that the studio holds, on the board or not.

    `file` is what the studio's own copy is called; `source` the user's file, as it was given:
    its path in their data set or in the folder that was dropped.
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

    `kept`: labels that a person has looked at and found right, whatever a model says. Where a
    picture may have several labels, they stand with `|` between, and each is a column.
    """

    classes: tuple[str, ...] = ()
    labels: Labels = field(default_factory=dict)
    kept: Labels = field(default_factory=dict)
    task: Task = "classify"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardChange:
    """One step, in words, and what it changes: (before, after) of labels, classes, kept labels.

    A picture that is not on the board has the label None. Changes of one `batch`, such as the
    many requests of one drop of files, are taken back together.
    """

    what: str
    labels: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    kept: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    renamed: tuple[str, str] | None = None
    batch: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not self.labels and not self.kept and self.classes is None


def applied(board: Board, change: BoardChange) -> Board:
    """The board after a change.

    >>> board = Board(("cat",), {"a": "cat"})
    >>> applied(board, labelled(board, ["a"], None)).labels
    {}
    """
    classes = board.classes if change.classes is None else change.classes[1]
    labels, kept = _after(board.labels, change.labels), _after(board.kept, change.kept)
    return Board(classes, labels, kept, board.task)


def _after(labels: Labels, changed: Mapping[str, tuple[str | None, str | None]]) -> Labels:
    if not changed:
        return labels
    found = dict(labels)
    for id, (_, after) in changed.items():
        if after is None:
            found.pop(id, None)
        else:
            found[id] = after
    return found


def reversed_(change: BoardChange) -> BoardChange:
    """What takes a change back.

    >>> board = Board(("cat",), {"a": "cat"})
    >>> off = labelled(board, ["a"], None)
    >>> applied(applied(board, off), reversed_(off)) == board
    True
    """
    labels, kept = (
        {id: (after, before) for id, (before, after) in one.items()}
        for one in (change.labels, change.kept)
    )
    classes = change.classes and (change.classes[1], change.classes[0])
    renamed = change.renamed and (change.renamed[1], change.renamed[0])
    return replace(change, labels=labels, kept=kept, classes=classes, renamed=renamed)


def joined(first: BoardChange, second: BoardChange) -> BoardChange:
    """Two additions of one batch as one.

    >>> board = Board()
    >>> first = replace(labelled(board, ["a"], "cat"), batch="1")
    >>> second = replace(labelled(applied(board, first), ["b"], "dog"), batch="1")
    >>> both = joined(first, second)
    >>> both.what, applied(board, both).classes
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


# ---- what people do ------------------------------------------------------------------------


def labelled(board: Board, ids: Iterable[str], label: str | None) -> BoardChange:
    """Give pictures a class, or take them off the board (None); what has it already stays.

    A class that is not there yet is made.

    >>> labelled(Board(("cat", "dog"), {"a": "cat", "b": "dog"}), ["a", "b"], "dog").what
    'moved 1 picture to dog'
    """
    sorting = SORTINGS[board.task]
    label = None if label is None else sorting.checked(label)
    now = {id: (board.labels.get(id), label) for id in ids}
    labels = {id: pair for id, pair in now.items() if pair[0] != pair[1]}
    are_new = all(before is None for before, _ in labels.values())
    moved = "moved" if board.task == "classify" else "set"
    verb = "took" if label is None else "added" if are_new else moved
    end = "off the board" if label is None else f"to {shown(label)}"
    classes = _grown(board, () if label is None else sorting.names(label))
    return BoardChange(
        what=f"{verb} {_pictures(len(labels))} {end}", labels=labels, classes=classes
    )


def marked(board: Board, ids: Iterable[str], name: str, is_on: bool) -> BoardChange:
    """Give pictures one label more, or take it from them; the others stay.

    Raises: UsageError where a picture has one class, or a number.

    >>> board = Board(("cat",), {"a": "cat", "b": ""}, task="multilabel")
    >>> marked(board, ["a", "b"], "owl", True).labels
    {'a': ('cat', 'cat|owl'), 'b': ('', 'owl')}
    """
    if board.task != "multilabel":
        raise UsageError("a picture has one label here; give it another one instead.")
    sorting, name = SORTINGS[board.task], label_name(name)
    found = {}
    for id in ids:
        before = board.labels.get(id, "")
        rest = [other for other in sorting.names(before) if other != name]
        after = sorting.checked(SEPARATOR.join([*rest, name] if is_on else rest))
        if after != before:
            found[id] = (board.labels.get(id), after)
    what = f"gave {_pictures(len(found))} the label {name}"
    if not is_on:
        what = f"took the label {name} from {_pictures(len(found))}"
    return BoardChange(what=what, labels=found, classes=_grown(board, (name,) if is_on else ()))


def shown(label: str) -> str:
    """A label in words.

    >>> shown("cat|owl"), shown("")
    ('cat, owl', 'no label')
    """
    return label.replace(SEPARATOR, ", ") or "no label"


def _grown(board: Board, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The classes before and after, where some of these are new."""
    new = [name for name in dict.fromkeys(names) if name not in board.classes]
    return (board.classes, (*board.classes, *new)) if new else None


def filled(board: Board, labels: Labels) -> BoardChange:
    """Put many pictures on the board at once, each with its class."""
    sorting = SORTINGS[board.task]
    labels = {id: sorting.checked(label) for id, label in labels.items()}
    return BoardChange(
        what=f"added {_pictures(len(labels))}",
        labels={id: (board.labels.get(id), label) for id, label in labels.items()},
        classes=_grown(board, (n for label in labels.values() for n in sorting.names(label))),
    )


def looked_at(board: Board, ids: Iterable[str]) -> BoardChange:
    """Note that the labels of these pictures are right.

    >>> looked_at(Board(("cat",), {"a": "cat"}), ["a"]).kept
    {'a': (None, 'cat')}
    """
    now = {id: (board.kept.get(id), board.labels.get(id)) for id in ids}
    kept = {id: pair for id, pair in now.items() if pair[1] is not None and pair[0] != pair[1]}
    n = len(kept)
    return BoardChange(
        what=f"kept the {'label' if n == 1 else 'labels'} of {_pictures(n)}", kept=kept
    )


def with_class(board: Board, name: str) -> BoardChange:
    """A new, empty class. Raises: UsageError where there is one of that name."""
    name = _own_name(board, name)
    _check_new(board, name)
    return BoardChange(
        what=f"added the {_noun(board)} {name}", classes=(board.classes, (*board.classes, name))
    )


def renamed(board: Board, old: str, new: str) -> BoardChange:
    """Another name for a class. Raises: UsageError where there is none, or one of the new name."""
    new = _own_name(board, new)
    _check_known(board, old)
    if new == old:
        return BoardChange(what="changed nothing")
    _check_new(board, new)
    sorting = SORTINGS[board.task]

    def changed(labels: Labels) -> dict[str, tuple[str | None, str | None]]:
        now = {id: (label, sorting.renamed(label, old, new)) for id, label in labels.items()}
        return {id: pair for id, pair in now.items() if pair[0] != pair[1]}

    return BoardChange(
        what=f"renamed {old} to {new}",
        labels=changed(board.labels),
        kept=changed(board.kept),
        classes=(board.classes, tuple(new if name == old else name for name in board.classes)),
        renamed=(old, new),
    )


def without_class(board: Board, name: str) -> BoardChange:
    """A class taken away with its pictures. Raises: UsageError where there is none.

    One of several labels is taken from its pictures, and these stay.
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


def learnable(board: Board, pictures: Mapping[str, BoardPicture]) -> str:
    """Why nothing can be learnt from a board yet; nothing where something can."""
    order = {name: place for place, name in enumerate(board.classes)}
    labels = [label for id, label in board.labels.items() if pictures[id].split != "test"]
    labels.sort(key=lambda label: order.get(label, len(order)))
    return SORTINGS[board.task].problem(labels)


def _own_name(board: Board, name: str) -> str:
    """A name for a column. Raises: UsageError where there are none of people's own."""
    if board.task == "regress":
        raise UsageError("pictures have numbers here, and no classes to name.")
    return label_name(name) if board.task == "multilabel" else checked_name(name)


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
