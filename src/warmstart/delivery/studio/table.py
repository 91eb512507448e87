"""The table of a board, and the pictures behind the examples of its runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from warmstart.delivery.studio.board import Board, Picture

GROUP, LABEL = "group", "label"
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
