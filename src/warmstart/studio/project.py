"""The folder of a studio: pictures, what was done to them, and a table for each run.

    project.json       its name, and the data set that it was begun from
    pictures/          copies of what was given, by content; never the user's own files
    pictures.jsonl     a line for each: name, size, hash; the last one counts
    changes.jsonl      a line for each step, undo and redo among them; the board follows from them
    board-N.csv        the labels that run N learnt from
    runs/N/            its run folder

Every line is on disk before the change is told of, so that a crash loses nothing.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from warmstart.errors import RunFolderError, UsageError
from warmstart.records.data import Split, Task
from warmstart.records.run_folder import (
    ABSENT,
    from_plain,
    read_json,
    to_plain,
    write_bytes,
    write_json,
)
from warmstart.studio.board import (
    Board,
    BoardChange,
    BoardPicture,
    applied,
    joined,
    learnable,
    reversed_,
)
from warmstart.studio.sorting import SORTINGS

# ---- The table of a board, and the pictures behind the examples of its runs.


GROUP, LABEL, DROP = "group", "label", "drop"
COLUMNS = ("path", LABEL, "split", GROUP)


def table_of(board: Board, pictures: Mapping[str, BoardPicture], called: str = LABEL) -> str:
    """Path, label and part of each picture on the board, and its group where some have one.

    `called`: the column of the labels.

    >>> one = BoardPicture(
    ...     id="a", name="x", file="a.jpg", sha256="", width=1, height=1, split="holdout"
    ... )
    >>> table_of(Board(("cat",), {"a": "cat"}), {"a": one})
    'path,label,split\\npictures/a.jpg,cat,val\\n'
    """
    rows = [(pictures[id], label) for id, label in board.labels.items()]
    columns = COLUMNS if any(one.group for one, _ in rows) else COLUMNS[:3]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([called if column == LABEL else column for column in columns])
    for one, label in rows:
        cells = (f"pictures/{one.file}", label, one.split.replace("holdout", "val"))
        table.writerow([*cells, one.group or ""][: len(columns)])
    return text.getvalue()


def corrections_of(board: Board, pictures: Mapping[str, BoardPicture], off: Collection[str]) -> str:
    """Label and part of the user's files by their paths; those of `off` are to be dropped.

    An empty label drops, too: where a class is called "drop", that word is its name.

    >>> one = BoardPicture(id="a", name="x.jpg", file="a.jpg", sha256="", width=1, height=1,
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
        table.writerow((one.source or one.name, label, one.split.replace("holdout", "val")))
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


# ---- What a studio's folder says of itself: project.json.


FACTS = "project.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """project.json. `source`: the data set it was begun from, nothing where there was none.

    `called`: what the data call their number.
    """

    name: str
    source: str = ""
    format: int = FORMAT
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class a picture
    called: str | None = field(default=None, metadata=ABSENT)


def about_of(path: Path, source: str) -> About:
    """Raises: RunFolderError for a later format, UsageError for another source."""
    about = read_json(path / FACTS, About)
    if about.format > FORMAT:
        raise RunFolderError(
            f"{path} was made by a later version of warmstart; open it with that one."
        )
    if source and source != about.source:
        begun = f"was begun from {about.source}" if about.source else "was begun without data"
        raise UsageError(f"{path} {begun}, not from {source}; choose another --out.")
    return about


# ---- The board as its steps have made it, and what runs called its classes.


Line = Mapping[str, Any]


@dataclass(slots=True)
class History:
    """Follows lines: changes, undo, redo, and at which step a run began."""

    board: Board = field(default_factory=Board)
    version: int = 0
    done: list[BoardChange] = field(default_factory=list)
    undone: list[BoardChange] = field(default_factory=list)
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

    def follow(self, line: Line) -> BoardChange:
        """Do what a line says; the change that came of it.

        Raises: ValueError, KeyError or TypeError for a line that says nothing possible.
        """
        if "run" in line:
            self.begun[int(line["run"])] = self.version
            return BoardChange(what="")
        change = self._change(line)
        self.board = applied(self.board, change)
        self.version += 1
        if change.renamed is not None:
            self.renames.append((self.version, *change.renamed))
        return change

    def _change(self, line: Line) -> BoardChange:
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


def read_change(line: Line) -> BoardChange:
    """A change as it was written down."""
    labels, kept = (
        {id: (pair[0], pair[1]) for id, pair in line.get(name, {}).items()}
        for name in ("labels", "kept")
    )
    classes, renamed = line.get("classes"), line.get("renamed")
    return BoardChange(
        what=line["what"],
        labels=labels,
        kept=kept,
        batch=line.get("batch", ""),
        classes=None if classes is None else (tuple(classes[0]), tuple(classes[1])),
        renamed=None if renamed is None else (renamed[0], renamed[1]),
    )


# ---- Files of JSON lines that only grow; a line is on disk before it is believed.


def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines, forced to disk: all of them, or none. What a kill had left of one is cut off."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with open(path, "ab+") as file:
        end = _whole(file)
        file.truncate(end)
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)  # else a step would be there that the person was told had failed
            raise


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a file with their numbers, none where there is no file.

    Raises: RunFolderError for a line that is damaged.
    """
    if not path.exists():
        return
    *whole, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        try:
            told = json.loads(line)
        except ValueError as error:
            raise damaged(path, number, error) from None
        if not isinstance(told, dict):
            raise damaged(path, number, "it is no object")
        yield number, told


def damaged(path: Path, number: int, why: object) -> RunFolderError:
    """The error for a line that cannot be used."""
    return RunFolderError(
        f"{path}, line {number} is damaged ({why}); remove that line, or put the file back."
    )


def _whole(file: Any) -> int:
    """Where the last whole line ends."""
    end = int(file.seek(0, os.SEEK_END))
    while end:
        begin = max(end - 4096, 0)
        file.seek(begin)
        place = file.read(end - begin).rfind(b"\n")
        if place >= 0:
            return begin + int(place) + 1
        end = begin
    return 0


PICTURES, CHANGES = "pictures.jsonl", "changes.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One picture that was taken in. `source`: the path of the user's file, as it was given."""

    name: str
    payload: bytes
    suffix: str
    width: int
    height: int
    split: Split = "train"
    group: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What a step changed, for those who show the board. `problem`: why nothing can be learnt."""

    version: int
    labels: Mapping[str, str | None]
    kept: Mapping[str, str | None]
    classes: tuple[str, ...]
    pictures: tuple[BoardPicture, ...]
    undo: str | None
    redo: str | None
    problem: str


@dataclass(slots=True)
class Project:
    """A studio's folder, held alone, and the board that its lines make."""

    path: Path
    about: About
    pictures: dict[str, BoardPicture] = field(default_factory=dict)
    history: History = field(default_factory=History)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _held: Any = None
    _contents: dict[str, list[str]] = field(default_factory=dict)  # sha256 -> ids

    # ---- opening ---------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path, name: str, source: str = "") -> Project:
        """Open a project, or begin one from a source.

        Raises: RunFolderError where it is no such folder, is damaged, or another studio is at
        work on it; UsageError where it was begun from another source.
        """
        path = path.resolve()
        is_new = not (path / FACTS).exists()
        if is_new and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(f"{path} holds something else; choose another --out.")
        (path / "pictures").mkdir(parents=True, exist_ok=True)
        held = _hold(path)
        try:
            if is_new:
                write_json(path / FACTS, About(name=name, source=source))
            found = cls(path, about_of(path, source), _held=held)
            found._begin()
            found._read()
        except BaseException:
            held.close()
            raise
        return found

    def close(self) -> None:
        """Let others at the folder."""
        self._held.close()

    @property
    def board(self) -> Board:
        """Classes and labels as they are now."""
        return self.history.board

    @property
    def task(self) -> Task:
        """What its labels are."""
        return self.about.task or "classify"

    def set_task(self, task: Task, called: str | None) -> None:
        """Say what the labels are, before any picture has one."""
        if task != self.task:
            self.about = replace(self.about, task=task, called=called)
            write_json(self.path / FACTS, self.about)
            self._begin()

    def _begin(self) -> None:
        self.history = History(board=Board(task=self.task))

    def _read(self) -> None:
        for number, line in read_lines(self.path / PICTURES):
            try:
                self._know(from_plain(BoardPicture, line))
            except (KeyError, TypeError, ValueError) as error:
                raise damaged(self.path / PICTURES, number, error) from None
        for number, line in read_lines(self.path / CHANGES):
            try:
                self.history.follow(line)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise damaged(self.path / CHANGES, number, error) from None
        strangers = [id for id in self.board.labels if id not in self.pictures]
        if strangers:
            raise RunFolderError(
                f"{self.path / CHANGES} names the picture {strangers[0]}, which "
                f"{PICTURES} does not list; put that file back."
            )

    def _know(self, picture: BoardPicture) -> None:
        if picture.id not in self.pictures:
            self._contents.setdefault(picture.sha256, []).append(picture.id)
        self.pictures[picture.id] = picture

    # ---- changing --------------------------------------------------------------------------

    def change(self, make: Callable[[Board], BoardChange]) -> Delta:
        """Make a change of the board as it is now, keep it, tell what it changed."""
        with self.lock:
            change = make(self.board)
            return self._delta(change) if change.is_empty else self._do(to_plain(change))

    def undo(self) -> Delta | None:
        """Take the latest step back; None where there is none."""
        with self.lock:
            return self._do({"undo": True}) if self.history.done else None

    def redo(self) -> Delta | None:
        """Do again what was taken back; None where there is nothing."""
        with self.lock:
            return self._do({"redo": True}) if self.history.undone else None

    def _do(self, line: Line) -> Delta:
        append(self.path / CHANGES, [line])
        return self._delta(self.history.follow(line))

    def _delta(self, change: BoardChange) -> Delta:
        labels, kept = (
            {id: after for id, (_, after) in one.items()} for one in (change.labels, change.kept)
        )
        shown = tuple(self.pictures[id] for id, after in labels.items() if after is not None)
        history = self.history
        return Delta(
            version=history.version,
            labels=labels,
            kept=kept,
            classes=self.board.classes,
            pictures=shown,
            undo=history.undo_words,
            redo=history.redo_words,
            problem=learnable(self.board, self.pictures),
        )

    # ---- pictures --------------------------------------------------------------------------

    def known(self, payload: bytes) -> list[BoardPicture]:
        """The pictures of these very bytes, those on the board first."""
        ids = self._contents.get(sha256(payload).hexdigest(), [])
        return [self.pictures[id] for id in sorted(ids, key=lambda id: id not in self.board.labels)]

    def keep(self, arrived: Iterable[Arrived], is_copy: bool = False) -> list[BoardPicture]:
        """Write pictures into the folder, and a line for each; they are not on the board yet.

        `is_copy`: what was given stays where it is, so that nothing is forced to disk here.
        """
        with self.lock:
            taken: set[str] = set()
            kept = [self._kept(one, is_copy, taken) for one in arrived]
            append(self.path / PICTURES, [to_plain(picture) for picture in kept])
            for picture in kept:
                self._know(picture)
            return kept

    def _kept(self, one: Arrived, is_copy: bool, taken: set[str]) -> BoardPicture:
        digest = sha256(one.payload).hexdigest()
        id, number = digest[:24], 1
        while id in self.pictures or id in taken:  # the same bytes twice, in a data set
            number += 1
            id = f"{digest[:24]}-{number}"
        taken.add(id)
        place = self.path / "pictures" / f"{id}{one.suffix}"
        if is_copy:
            place.write_bytes(one.payload)
        else:
            write_bytes(place, one.payload)
        return BoardPicture(
            id=id,
            name=one.name,
            file=place.name,
            sha256=digest,
            width=one.width,
            height=one.height,
            split=one.split,
            group=one.group,
            source=one.source or one.name,
        )

    def set_split(self, id: str, split: Split) -> None:
        """Put a picture that is not on the board into another part of the data."""
        with self.lock:
            picture = replace(self.pictures[id], split=split)
            append(self.path / PICTURES, [to_plain(picture)])
            self._know(picture)

    def place_of(self, id: str) -> Path:
        """Where a picture lies. Raises: KeyError where there is none of that id."""
        return self.path / "pictures" / self.pictures[id].file

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

    # ---- runs ------------------------------------------------------------------------------

    def write_table(self) -> tuple[int, Path]:
        """The labels as they are now as a table, numbered as the next run.

        Raises: UsageError naming a picture whose file is gone.
        """
        with self.lock:
            gone = next((id for id in self.board.labels if not self.place_of(id).exists()), None)
            if gone is not None:
                raise UsageError(
                    f"{self.pictures[gone].name} is gone from {self.path / 'pictures'}; take it "
                    "off the board, or add it again."
                )
            number = 1 + max(self.numbers(), default=0)
            path = self.path / f"board-{number}.csv"
            write_bytes(path, self.table().encode())
            append(self.path / CHANGES, [{"run": number}])
            self.history.follow({"run": number})
            return number, path

    def draft_table(self) -> tuple[int, Path]:
        """The same for what is only asked about."""
        with self.lock:
            path = self.path / "draft.csv"
            write_bytes(path, self.table().encode())
            return 1 + max(self.numbers(), default=0), path

    def table(self) -> str:
        """The labels as they are now, as text."""
        return table_of(self.board, self.pictures, self.about.called or LABEL)

    def numbers(self) -> list[int]:
        """Of runs, finished or not, in order."""
        folder = self.path / "runs"
        names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        tables = [path.stem.removeprefix("board-") for path in self.path.glob("board-*.csv")]
        return sorted({int(name) for name in (*names, *tables) if name.isdecimal()})

    def run(self, number: int) -> Path:
        """The folder of a run."""
        return self.path / "runs" / str(number)


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
