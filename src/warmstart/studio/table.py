"""The table of a board, and the pictures behind the examples of its runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from warmstart.studio.board import Board, Picture

GROUP, LABEL, DROP = "group", "label", "drop"
COLUMNS = ("path", LABEL, "split", GROUP)


def table_of(board: Board, pictures: Mapping[str, Picture], called: str = LABEL) -> str:
    """Path, label and part of each picture on the board, and its group where some have one.

    `called`: the column of the labels.

    >>> one = Picture(id="a", name="x", file="a.jpg", sha256="", width=1, height=1, part="holdout")
    >>> table_of(Board(("cat",), {"a": "cat"}), {"a": one})
    'path,label,split\\npictures/a.jpg,cat,val\\n'
    """
    rows = [(pictures[id], label) for id, label in board.labels.items()]
    columns = COLUMNS if any(one.group for one, _ in rows) else COLUMNS[:3]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([called if column == LABEL else column for column in columns])
    for one, label in rows:
        cells = (f"pictures/{one.file}", label, one.part.replace("holdout", "val"))
        table.writerow([*cells, one.group or ""][: len(columns)])
    return text.getvalue()


def corrections_of(board: Board, pictures: Mapping[str, Picture], off: Collection[str]) -> str:
    """Label and part of the user's files by their paths; those of `off` are to be dropped.

    An empty label drops, too: where a class is called "drop", that word is its name.

    >>> one = Picture(id="a", name="x.jpg", file="a.jpg", sha256="", width=1, height=1,
    ...               source="cat/x.jpg")
    >>> from dataclasses import replace
    >>> two = replace(one, id="b", source="cat/y.jpg")
    >>> corrections_of(Board(("cat",), {"a": "cat"}), {"a": one, "b": two}, ["b"])
    'path,label,split\\ncat/x.jpg,cat,train\\ncat/y.jpg,drop,train\\n'
    """
    gone = "" if DROP in board.classes else DROP
    rows = [*board.labels.items(), *((id, gone) for id in pictures if id in off)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS[:3])
    for id, label in rows:
        one = pictures[id]
        table.writerow((one.source or one.name, label, one.part.replace("holdout", "val")))
    return text.getvalue()


def has_groups(table: Path) -> bool:
    """Whether a table says which pictures belong together."""
    with open(table, encoding="utf-8", newline="") as file:
        return GROUP in next(csv.reader(file))


def id_of(example: str) -> str:
    """The picture that an example of a run is.

    >>> id_of("pictures/ab12.jpg")
    'ab12'
    """
    return Path(example).name.partition(".")[0]


def n_changed(before: Mapping[str, str], board: Board) -> int:
    """How many pictures of a board have another label than a run knew, or are new or gone.

    >>> n_changed({"a": "cat", "b": "cat"}, Board(("cat",), {"a": "cat", "c": "cat"}))
    2
    """
    return sum(before.get(id) != board.labels.get(id) for id in {*before, *board.labels})
