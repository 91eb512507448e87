"""Pictures under their classes, and changes to that which can be taken back."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmstart.errors import UsageError
from warmstart.records import Split

MOST_LETTERS = 100  # of a class name
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture that the studio holds, on the board or not. `file` is its name on disk."""

    id: str
    name: str
    file: str
    sha256: str
    width: int
    height: int
    part: Split = "train"
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """Classes in the order of their columns, and the class of each picture on the board.

    `kept`: labels that a person has looked at and found right, whatever a model says.
    """

    classes: tuple[str, ...] = ()
    labels: Labels = field(default_factory=dict)
    kept: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
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


def applied(board: Board, change: Change) -> Board:
    """The board after a change.

    >>> board = Board(("cat",), {"a": "cat"})
    >>> applied(board, labelled(board, ["a"], None)).labels
    {}
    """
    classes = board.classes if change.classes is None else change.classes[1]
    return Board(classes, _after(board.labels, change.labels), _after(board.kept, change.kept))


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


def reversed_(change: Change) -> Change:
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


def joined(first: Change, second: Change) -> Change:
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
        first, labels=labels, what=f"added {_pictures(len(labels))}{to}",
        classes=(ends[0][0], ends[-1][1]) if ends else None,
    )  # fmt: skip


# ---- what people do ------------------------------------------------------------------------


def labelled(board: Board, ids: Iterable[str], label: str | None) -> Change:
    """Give pictures a class, or take them off the board (None); what has it already stays.

    A class that is not there yet is made.

    >>> labelled(Board(("cat", "dog"), {"a": "cat", "b": "dog"}), ["a", "b"], "dog").what
    'moved 1 picture to dog'
    """
    label = None if label is None else checked_name(label)
    now = {id: (board.labels.get(id), label) for id in ids}
    labels = {id: pair for id, pair in now.items() if pair[0] != pair[1]}
    are_new = all(before is None for before, _ in labels.values())
    verb = "took" if label is None else "added" if are_new else "moved"
    end = "off the board" if label is None else f"to {label}"
    classes = None
    if label is not None and label not in board.classes:
        classes = (board.classes, (*board.classes, label))
    return Change(what=f"{verb} {_pictures(len(labels))} {end}", labels=labels, classes=classes)


def filled(board: Board, labels: Labels) -> Change:
    """Put many pictures on the board at once, each with its class."""
    labels = {id: checked_name(label) for id, label in labels.items()}
    new = [name for name in dict.fromkeys(labels.values()) if name not in board.classes]
    return Change(
        what=f"added {_pictures(len(labels))}",
        labels={id: (board.labels.get(id), label) for id, label in labels.items()},
        classes=(board.classes, (*board.classes, *new)) if new else None,
    )


def looked_at(board: Board, ids: Iterable[str]) -> Change:
    """Note that the labels of these pictures are right.

    >>> looked_at(Board(("cat",), {"a": "cat"}), ["a"]).kept
    {'a': (None, 'cat')}
    """
    now = {id: (board.kept.get(id), board.labels.get(id)) for id in ids}
    kept = {id: pair for id, pair in now.items() if pair[1] is not None and pair[0] != pair[1]}
    n = len(kept)
    return Change(what=f"kept the {'label' if n == 1 else 'labels'} of {_pictures(n)}", kept=kept)


def with_class(board: Board, name: str) -> Change:
    """A new, empty class. Raises: UsageError where there is one of that name."""
    name = checked_name(name)
    _check_new(board, name)
    return Change(what=f"added the class {name}", classes=(board.classes, (*board.classes, name)))


def renamed(board: Board, old: str, new: str) -> Change:
    """Another name for a class. Raises: UsageError where there is none, or one of the new name."""
    new = checked_name(new)
    _check_known(board, old)
    if new == old:
        return Change(what="changed nothing")
    _check_new(board, new)
    return Change(
        what=f"renamed {old} to {new}",
        labels={id: (old, new) for id, label in board.labels.items() if label == old},
        kept={id: (old, new) for id, label in board.kept.items() if label == old},
        classes=(board.classes, tuple(new if name == old else name for name in board.classes)),
        renamed=(old, new),
    )


def without_class(board: Board, name: str) -> Change:
    """A class taken away with its pictures. Raises: UsageError where there is none."""
    _check_known(board, name)
    ids = [id for id, label in board.labels.items() if label == name]
    left = tuple(one for one in board.classes if one != name)
    return Change(
        what=f"removed the class {name}" + (f" with {_pictures(len(ids))}" if ids else ""),
        labels=dict.fromkeys(ids, (name, None)),
        classes=(board.classes, left),
    )


def checked_name(name: str) -> str:
    """A class name as it is kept. Raises: UsageError for one that cannot be shown or stored.

    >>> checked_name("  house  cat ")
    'house cat'
    """
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name or len(name) > MOST_LETTERS:
        raise UsageError(f"a class needs a name of 1 to {MOST_LETTERS} letters.")
    strange = next((letter for letter in name if _is_strange(letter)), None)
    if strange is not None:
        raise UsageError(
            f"a class name cannot hold the letter U+{ord(strange):04X}; leave it away."
        )
    return name


def _is_strange(letter: str) -> bool:
    """Control characters, halves of characters, and what turns the text around it."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn") or letter in _TURNING


def learnable(board: Board, pictures: Mapping[str, Picture]) -> str:
    """Why nothing can be learnt from a board yet; nothing where something can."""
    sizes = dict.fromkeys(board.classes, 0)
    for id, label in board.labels.items():
        sizes[label] += pictures[id].part != "test"
    full = {name: n for name, n in sizes.items() if n}
    few = next((name for name, n in full.items() if n < 2), None)
    if len(full) < 2:
        return "Two classes with two pictures each are needed to begin."
    if few is not None:
        return f"{few} has 1 picture; a class needs at least 2. Add one, or take it off."
    return ""


def _pictures(n: int) -> str:
    return f"{n:,} picture" + ("" if n == 1 else "s")


def _check_new(board: Board, name: str) -> None:
    if name in board.classes:
        raise UsageError(f"there is a class {name} already; choose another name.")


def _check_known(board: Board, name: str) -> None:
    if name not in board.classes:
        known: Sequence[str] = board.classes[:10]
        raise UsageError(f"there is no class {name}; there are {', '.join(known) or 'none'}.")
