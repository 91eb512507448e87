"""The folder of a studio: pictures, what was done to them, and a table for each run.

    pictures/          copies of what was given, by content; never the user's own files
    pictures.jsonl     a line for each: name, size, hash
    changes.jsonl      a line for each step, undo and redo among them; the board follows from them
    board-N.csv        the labels that run N learnt from
    runs/N/            its run folder

Every line is on disk before the change is told of, so that a crash loses nothing.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmstart.delivery.studio.board import Board, Change, Picture, applied, joined, reversed_
from warmstart.delivery.studio.lines import append, read_lines
from warmstart.errors import RunFolderError
from warmstart.folder import from_plain, to_plain, write_bytes, write_json

FACTS = "project.json"
PICTURES, CHANGES = "pictures.jsonl", "changes.jsonl"
COLUMNS = ("path", "label", "split", "group")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One picture that was taken in: its bytes, and what is known of it."""

    name: str
    payload: bytes
    suffix: str
    width: int
    height: int
    part: Any = "train"
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What a step changed, for those who show the board."""

    version: int
    labels: Mapping[str, str | None]
    kept: Mapping[str, str | None]
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    undo: str | None
    redo: str | None


@dataclass(slots=True)
class Project:
    """A studio's folder, held alone, and the board that its lines make."""

    path: Path
    name: str
    pictures: dict[str, Picture] = field(default_factory=dict)
    board: Board = field(default_factory=Board)
    version: int = 0
    done: list[Change] = field(default_factory=list)
    undone: list[Change] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _held: Any = None
    _contents: dict[str, str] = field(default_factory=dict)  # sha256 -> id

    # ---- opening ---------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path, name: str) -> Project:
        """Open a project, or begin one. Raises: RunFolderError where it is no such folder, or
        another studio is at work on it."""
        path = path.resolve()
        is_new = not (path / FACTS).exists()
        if is_new and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(f"{path} holds something else; choose another --out.")
        (path / "pictures").mkdir(parents=True, exist_ok=True)
        found = cls(path, name)
        found._held = _hold(path)
        if is_new:
            write_json(path / FACTS, {"format": 1, "name": name})
        found._read()
        return found

    def close(self) -> None:
        """Let others at the folder."""
        self._held.close()

    def _read(self) -> None:
        for line in read_lines(self.path / PICTURES):
            self._know(from_plain(Picture, line))
        for line in read_lines(self.path / CHANGES):
            self._replay(line)

    def _know(self, picture: Picture) -> None:
        self.pictures[picture.id] = picture
        self._contents.setdefault(picture.sha256, picture.id)

    def _replay(self, line: Mapping[str, Any]) -> Change:
        """Do what a line says; the change that came of it."""
        if line.get("undo"):
            change = reversed_(self.done[-1])
            self.undone.append(self.done.pop())
        elif line.get("redo"):
            change = self.undone[-1]
            self.done.append(self.undone.pop())
        else:
            change = _change(line)
            last = self.done[-1] if self.done and not self.undone else None
            if last is not None and change.batch and last.batch == change.batch:
                self.done[-1] = joined(last, change)
            else:
                self.done.append(change)
            self.undone.clear()
        self.board = applied(self.board, change)
        self.version += 1
        return change

    # ---- changing --------------------------------------------------------------------------

    def change(self, make: Callable[[Board], Change]) -> Delta:
        """Make a change of the board as it is now, keep it, tell what it changed."""
        with self.lock:
            change = make(self.board)
            return self._delta(change) if change.is_empty else self._do(to_plain(change))

    def undo(self) -> Delta | None:
        """Take the latest step back; None where there is none."""
        with self.lock:
            return self._do({"undo": True}) if self.done else None

    def redo(self) -> Delta | None:
        """Do again what was taken back; None where there is nothing."""
        with self.lock:
            return self._do({"redo": True}) if self.undone else None

    def _do(self, line: Mapping[str, Any]) -> Delta:
        append(self.path / CHANGES, [line])
        return self._delta(self._replay(line))

    def _delta(self, change: Change) -> Delta:
        labels, kept = (
            {id: after for id, (_, after) in one.items()} for one in (change.labels, change.kept)
        )
        shown = tuple(self.pictures[id] for id, after in labels.items() if after is not None)
        return Delta(
            version=self.version, labels=labels, kept=kept, classes=self.board.classes,
            pictures=shown, undo=self.done[-1].what if self.done else None,
            redo=self.undone[-1].what if self.undone else None,
        )  # fmt: skip

    # ---- pictures --------------------------------------------------------------------------

    def known(self, payload: bytes) -> Picture | None:
        """The picture of these very bytes, on the board or not."""
        id = self._contents.get(hashlib.sha256(payload).hexdigest())
        return None if id is None else self.pictures[id]

    def small(self, id: str) -> Path:
        """Where the thumbnail of a picture lies, once it was made."""
        return self.path / "thumbnails" / f"{id}.jpg"

    def keep_small(self, id: str, made: bytes) -> None:
        """Keep a thumbnail; it can be made again, so that nothing is forced to disk."""
        place = self.small(id)
        place.parent.mkdir(exist_ok=True)
        beside = place.with_name(f".{id}-{threading.get_ident()}")
        beside.write_bytes(made)
        beside.replace(place)

    def keep(self, arrived: Iterable[Arrived], is_copy: bool = False) -> list[Picture]:
        """Write pictures into the folder, and a line for each; they are not on the board yet.

        `is_copy`: what was given stays where it is, so that nothing is forced to disk here.
        """
        with self.lock:
            kept = [self._kept(one, is_copy) for one in arrived]
            append(self.path / PICTURES, [to_plain(picture) for picture in kept])
            for picture in kept:
                self._know(picture)
            return kept

    def _kept(self, one: Arrived, is_copy: bool) -> Picture:
        digest = hashlib.sha256(one.payload).hexdigest()
        id, number = digest[:24], 1
        while id in self.pictures:  # the same bytes twice, in a data set that was opened
            number += 1
            id = f"{digest[:24]}-{number}"
        file = f"{id}{one.suffix}"
        place = self.path / "pictures" / file
        if is_copy:
            place.write_bytes(one.payload)
        else:
            write_bytes(place, one.payload)
        picture = Picture(
            id=id, name=one.name, file=file, sha256=digest, width=one.width, height=one.height,
            part=one.part, group=one.group,
        )  # fmt: skip
        self.pictures[id] = picture
        return picture

    def bytes_of(self, id: str) -> bytes | None:
        """What was given for a picture; None where there is none of that id."""
        picture = self.pictures.get(id)
        return None if picture is None else (self.path / "pictures" / picture.file).read_bytes()

    # ---- runs ------------------------------------------------------------------------------

    def write_table(self) -> tuple[int, Path]:
        """The labels as they are now as a table, numbered as the next run."""
        with self.lock:
            number = 1 + max(self.numbers(), default=0)
            path = self.path / f"board-{number}.csv"
            write_bytes(path, self.table().encode())
            return number, path

    def draft_table(self) -> tuple[int, Path]:
        """The same for what is only asked about."""
        with self.lock:
            path = self.path / "draft.csv"
            write_bytes(path, self.table().encode())
            return 1 + max(self.numbers(), default=0), path

    def table(self) -> str:
        """The labels as they are now, by the place of each picture in this folder."""
        rows = [(self.pictures[id], label) for id, label in self.board.labels.items()]
        columns = COLUMNS if any(one.group for one, _ in rows) else COLUMNS[:3]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        for one, label in rows:
            cells = (f"pictures/{one.file}", label, one.part.replace("holdout", "val"))
            table.writerow([*cells, one.group or ""][: len(columns)])
        return text.getvalue()

    def numbers(self) -> list[int]:
        """Of runs, finished or not, in order."""
        folder = self.path / "runs"
        names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        tables = [path.stem.removeprefix("board-") for path in self.path.glob("board-*.csv")]
        return sorted({int(name) for name in (*names, *tables) if name.isdigit()})

    def run(self, number: int) -> Path:
        """The folder of a run."""
        return self.path / "runs" / str(number)

    def id_of(self, example: str) -> str:
        """The picture that an example of a run is.

        >>> Project(Path("p"), "p").id_of("pictures/ab12.jpg")
        'ab12'
        """
        return Path(example).name.partition(".")[0]


def _change(line: Mapping[str, Any]) -> Change:
    labels, kept = (
        {id: (pair[0], pair[1]) for id, pair in line.get(name, {}).items()}
        for name in ("labels", "kept")
    )
    classes = line["classes"]
    pair = None if classes is None else (tuple(classes[0]), tuple(classes[1]))
    batch = line.get("batch", "")
    return Change(what=line["what"], labels=labels, classes=pair, kept=kept, batch=batch)


def _hold(path: Path) -> Any:
    """Hold a project alone, for as long as what is returned is open."""
    held = open(path / ".lock", "a", encoding="utf-8")  # noqa: SIM115  (`close` does)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise RunFolderError(
            f"another studio is open on {path}; use that one, or end it first."
        ) from None
    except OSError:  # a disk without locks does without
        pass
    return held


def changed_since(before: Sequence[tuple[str, str]], board: Board) -> int:
    """How many pictures of a board have another label than in a run's table, or are new or gone.

    >>> changed_since([("a", "cat"), ("b", "cat")], Board(("cat",), {"a": "cat", "c": "cat"}))
    2
    """
    old = dict(before)
    return sum(old.get(id) != board.labels.get(id) for id in {*old, *board.labels})
