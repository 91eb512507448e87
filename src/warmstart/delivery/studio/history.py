"""The board as its steps have made it, and what runs called its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warmstart.delivery.studio.board import Board, Change, applied, joined, reversed_
from warmstart.delivery.studio.sorting import SORTINGS

Line = Mapping[str, Any]


@dataclass(slots=True)
class History:
    """Follows lines: changes, undo, redo, and at which step a run began."""

    board: Board = field(default_factory=Board)
    version: int = 0
    done: list[Change] = field(default_factory=list)
    undone: list[Change] = field(default_factory=list)
    renames: list[tuple[int, str, str]] = field(default_factory=list)  # version, before, after
    begun: dict[int, int] = field(default_factory=dict)  # version by the number of a run

    @property
    def undo_words(self) -> str | None:
        """What would be taken back."""
        return self.done[-1].what if self.done else None

    @property
    def redo_words(self) -> str | None:
        """What would be done again."""
        return self.undone[-1].what if self.undone else None

    def follow(self, line: Line) -> Change:
        """Do what a line says; the change that came of it.

        Raises: ValueError, KeyError or TypeError for a line that says nothing possible.
        """
        if "run" in line:
            self.begun[int(line["run"])] = self.version
            return Change(what="")
        change = self._change(line)
        self.board = applied(self.board, change)
        self.version += 1
        if change.renamed is not None:
            self.renames.append((self.version, *change.renamed))
        return change

    def _change(self, line: Line) -> Change:
        if line.get("undo"):
            if not self.done:
                raise ValueError("there is nothing to take back")
            self.undone.append(self.done.pop())
            return reversed_(self.undone[-1])
        if line.get("redo"):
            if not self.undone:
                raise ValueError("there is nothing to do again")
            self.done.append(self.undone.pop())
            return self.done[-1]
        change = read_change(line)
        last = self.done[-1] if self.done and not self.undone else None
        if last is not None and change.batch and last.batch == change.batch:
            self.done[-1] = joined(last, change)
        else:
            self.done.append(change)
        self.undone.clear()
        return change

    def name_of(self, label: str, number: int) -> str:
        """What a class is called now that a run knew by this name.

        >>> history = History()
        >>> _ = history.follow({"run": 1})
        >>> _ = history.follow({"what": "", "renamed": ["dog", "hound"]})
        >>> history.name_of("dog", 1), history.name_of("cat", 1)
        ('hound', 'cat')
        """
        since, sorting = self.begun.get(number, 0), SORTINGS[self.board.task]
        for version, before, after in self.renames:
            if version > since:
                label = sorting.renamed(label, before, after)
        return label


def read_change(line: Line) -> Change:
    """A change as it was written down."""
    labels, kept = (
        {id: (pair[0], pair[1]) for id, pair in line.get(name, {}).items()}
        for name in ("labels", "kept")
    )
    classes, renamed = line.get("classes"), line.get("renamed")
    return Change(
        what=line["what"], labels=labels, kept=kept, batch=line.get("batch", ""),
        classes=None if classes is None else (tuple(classes[0]), tuple(classes[1])),
        renamed=None if renamed is None else (renamed[0], renamed[1]),
    )  # fmt: skip
