"""The folder of a studio: pictures, changes, and a table for each run.

    project.json       its name and its data set
    pictures/          copies of the pictures, by content; never the user's own files
    pictures.jsonl     a line for each: name, size, hash; the last one counts
    changes.jsonl      a line for each step, with undo and redo; the board results from them
    board-N.csv        the labels of run N
    runs/N/            its run folder

Every line is on disk before the page learns of the change, so a crash loses nothing.
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
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from warmstart.data.dataset import Columns, Listing, Row
from warmstart.data.labels import normalise, task_for
from warmstart.data.read import list_examples
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.events import Event, Steps
from warmstart.modalities.audio import is_sound
from warmstart.modalities.registry import MODALITIES, picture_of
from warmstart.records.data import Split, Task, TaskOption
from warmstart.records.run_folder import (
    ABSENT,
    from_plain,
    read_json,
    to_plain,
    write_bytes,
    write_json,
)
from warmstart.run.reopened import SIDE, small_jpeg
from warmstart.tasks.registry import TASKS, task_or_default
from warmstart_studio.board import (
    Board,
    BoardChange,
    BoardPicture,
    add_pictures,
    apply,
    invert,
    merge,
    problem_of,
)

PICTURES, CHANGES, FACTS = "pictures.jsonl", "changes.jsonl", "project.json"
FORMAT = 1
GROUP, LABEL, DROP = "group", "label", "drop"
Line = Mapping[str, Any]

# ---- The table of a board, and the pictures behind the examples of its runs.


def table_of(board: Board, pictures: Mapping[str, BoardPicture], label_column: str = LABEL) -> str:
    """Path, label and split of each picture on the board as CSV, and its group if any has one."""
    rows = [("path", label_column, "split", GROUP)]
    for id, label in board.labels.items():
        one = pictures[id]
        rows.append((f"pictures/{one.file}", label, _split_name(one), one.group or ""))
    has_group = any(row[3] for row in rows[1:])
    return _csv(row if has_group else row[:3] for row in rows)


def corrections_of(
    board: Board, pictures: Mapping[str, BoardPicture], removed: Collection[str]
) -> str:
    """A table of corrections for the user's files: path, label, split; those of `removed` drop out.

    An empty label drops too, where a class is called "drop".
    """
    drop = "" if DROP in board.classes else DROP
    rows = [("path", LABEL, "split")]
    for id, label in (*board.labels.items(), *((id, drop) for id in pictures if id in removed)):
        one = pictures[id]
        rows.append((one.source or one.name, label, _split_name(one)))
    return _csv(rows)


def _split_name(picture: BoardPicture) -> str:
    return picture.split.replace("holdout", "val")


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def has_groups(table: Path) -> bool:
    """Whether a table has a group column."""
    with open(table, encoding="utf-8", newline="") as file:
        return GROUP in next(csv.reader(file))


def id_of(example: str) -> str:
    """The id of the picture behind an example of a run."""
    return Path(example).name.partition(".")[0]


def n_changed(before: Mapping[str, str], board: Board) -> int:
    """How many pictures have another label than in a run, or were added or removed."""
    return sum(before.get(id) != board.labels.get(id) for id in {*before, *board.labels})


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """project.json. `source`: its data set, empty if none."""

    name: str
    source: str = ""
    format: int = FORMAT
    task: Task | None = field(default=None, metadata=ABSENT)  # None: one class a picture
    label_column: str | None = field(default=None, metadata=ABSENT)  # of the data set


# ---- The history of a board.


@dataclass(slots=True)
class History:
    """Replays lines: changes, undo, redo, and the start of runs."""

    board: Board = field(default_factory=Board)
    version: int = 0
    done: list[BoardChange] = field(default_factory=list)
    undone: list[BoardChange] = field(default_factory=list)
    renames: list[tuple[int, str, str]] = field(default_factory=list)  # version, before, after
    run_versions: dict[int, int] = field(default_factory=dict)  # version by run number

    @property
    def undo_words(self) -> str | None:
        return self.done[-1].what if self.done else None

    @property
    def redo_words(self) -> str | None:
        return self.undone[-1].what if self.undone else None

    def replay(self, line: Line) -> BoardChange:
        """Apply a line and return its change.

        Raises: ValueError, KeyError or TypeError for an invalid line.
        """
        if "run" in line:
            self.run_versions[int(line["run"])] = self.version
            return BoardChange(what="")
        change = self._change(line)
        self.board = apply(self.board, change)
        self.version += 1
        if change.renamed is not None:
            self.renames.append((self.version, *change.renamed))
        return change

    def _change(self, line: Line) -> BoardChange:
        if line.get("undo"):
            if not self.done:
                raise ValueError("there is nothing to undo")
            self.undone.append(self.done.pop())
            return invert(self.undone[-1])
        if line.get("redo"):
            if not self.undone:
                raise ValueError("there is nothing to redo")
            self.done.append(self.undone.pop())
            return self.done[-1]
        change = from_plain(BoardChange, dict(line))
        last = self.done[-1] if self.done and not self.undone else None
        if last is not None and change.batch and last.batch == change.batch:
            self.done[-1] = merge(last, change)
        else:
            self.done.append(change)
        self.undone.clear()
        return change

    def name_of(self, label: str, number: int) -> str:
        """The present name of a class that had this name in a run."""
        since, target = self.run_versions.get(number, 0), TASKS[self.board.task]
        for version, before, after in self.renames:
            if version > since:
                label = target.rename(label, before, after)
        return label


# ---- Append-only files of JSON lines.
def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines, synced to disk: all of them, or none. A partial last line is cut off first."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with open(path, "ab+") as file:
        end = _end_of_lines(file)
        file.truncate(end)
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)  # the page reports that the step failed
            raise


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The complete lines of a file with their numbers; none without a file.

    Raises: RunFolderError for a damaged line.
    """
    if not path.exists():
        return
    *complete, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(complete, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _damaged(path, number, error) from None
        if not isinstance(row, dict):
            raise _damaged(path, number, "it is not an object")
        yield number, row


def _damaged(path: Path, number: int, why: object) -> RunFolderError:
    return RunFolderError(
        f"{path}, line {number} is damaged ({why}); remove that line, or put the file back."
    )


def _end_of_lines(file: Any) -> int:
    """The position after the last complete line."""
    end = int(file.seek(0, os.SEEK_END))
    newline = -1
    while end and newline < 0:
        begin = max(end - 4096, 0)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        end = begin
    return end + newline + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPicture:
    """One picture to add. `source`: the path of the user's file."""

    name: str
    payload: bytes
    suffix: str
    width: int = 0  # px, not known before it is decoded
    height: int = 0
    split: Split = "train"
    group: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What a step changed, for the page. `problem`: why nothing can be trained."""

    version: int
    labels: Mapping[str, str | None]
    confirmed: Mapping[str, str | None]
    classes: tuple[str, ...]
    pictures: tuple[BoardPicture, ...]
    undo: str | None
    redo: str | None
    problem: str


@dataclass(slots=True)
class Project:
    """A studio's folder, locked for one process, with its board."""

    path: Path
    about: About
    pictures: dict[str, BoardPicture] = field(default_factory=dict)
    history: History = field(default_factory=History)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _lock_file: Any = None
    _contents: dict[str, list[str]] = field(default_factory=dict)  # sha256 -> ids

    @classmethod
    def open(cls, path: Path, name: str, source: str = "") -> Project:
        """Open a project, or create one from a source.

        Raises: RunFolderError for another kind of folder, a later format, a damaged one, or one
        that another studio has open; UsageError where it was created from another source.
        """
        path = path.resolve()
        is_new = not (path / FACTS).exists()
        if is_new and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(f"{path} holds something else; choose another --out.")
        (path / "pictures").mkdir(parents=True, exist_ok=True)
        lock_file = _lock(path)
        try:
            if is_new:
                write_json(path / FACTS, About(name=name, source=source))
            about = read_json(path / FACTS, About)
            if about.format > FORMAT:
                raise RunFolderError(
                    f"{path} was made by a later version of warmstart; open it with that one."
                )
            if source and source != about.source:
                origin = f"from {about.source}" if about.source else "without data"
                raise UsageError(
                    f"{path} was created {origin}, not from {source}; choose another --out."
                )
            project = cls(path, about, _lock_file=lock_file)
            project._read()
        except BaseException:
            lock_file.close()
            raise
        return project

    def close(self) -> None:
        """Release the lock."""
        self._lock_file.close()

    @property
    def board(self) -> Board:
        return self.history.board

    @property
    def task(self) -> Task:
        return task_or_default(self.about.task).task

    def set_task(self, task: Task, label_column: str | None) -> None:
        """Set the task and its label column, before any picture has a label."""
        if task != self.task:
            self.about = replace(self.about, task=task, label_column=label_column)
            write_json(self.path / FACTS, self.about)
            self.history = History(board=Board(task=self.task))

    def _read(self) -> None:
        self.history = History(board=Board(task=self.task))
        for number, line in read_lines(self.path / PICTURES):
            try:
                self._register(from_plain(BoardPicture, line))
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(self.path / PICTURES, number, error) from None
        for number, line in read_lines(self.path / CHANGES):
            try:
                self.history.replay(line)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise _damaged(self.path / CHANGES, number, error) from None
        unlisted = [id for id in self.board.labels if id not in self.pictures]
        if unlisted:
            raise RunFolderError(
                f"{self.path / CHANGES} names the picture {unlisted[0]}, which "
                f"{PICTURES} does not list; put that file back."
            )

    def _register(self, picture: BoardPicture) -> None:
        if picture.id not in self.pictures:
            self._contents.setdefault(picture.sha256, []).append(picture.id)
        self.pictures[picture.id] = picture

    # ---- Changes.

    def change(self, make: Callable[[Board], BoardChange]) -> Delta:
        """Make a change of the present board, and record it."""
        with self.lock:
            change = make(self.board)
            return self._delta(change) if change.is_empty else self._record(to_plain(change))

    def undo(self) -> Delta | None:
        """Undo the latest step; None where there is none."""
        with self.lock:
            return self._record({"undo": True}) if self.history.done else None

    def redo(self) -> Delta | None:
        """Redo the latest undone step; None where there is none."""
        with self.lock:
            return self._record({"redo": True}) if self.history.undone else None

    def _record(self, line: Line) -> Delta:
        append(self.path / CHANGES, [line])
        return self._delta(self.history.replay(line))

    def _delta(self, change: BoardChange) -> Delta:
        labels, confirmed = (
            {id: after for id, (_, after) in pairs.items()}
            for pairs in (change.labels, change.confirmed)
        )
        history = self.history
        return Delta(
            version=history.version,
            labels=labels,
            confirmed=confirmed,
            classes=self.board.classes,
            pictures=tuple(self.pictures[id] for id, after in labels.items() if after is not None),
            undo=history.undo_words,
            redo=history.redo_words,
            problem=problem_of(self.board, self.pictures),
        )

    # ---- Pictures.

    def find(self, payload: bytes) -> list[BoardPicture]:
        """The pictures with these bytes, those on the board first."""
        ids = self._contents.get(sha256(payload).hexdigest(), [])
        return [self.pictures[id] for id in sorted(ids, key=lambda id: id not in self.board.labels)]

    def add(self, new: Iterable[NewPicture], is_copy: bool = False) -> list[BoardPicture]:
        """Write pictures into the folder, and a line for each; they are not on the board yet.

        `is_copy`: the originals stay, so nothing is synced to disk here.
        """
        with self.lock:
            ids: set[str] = set()
            added = [self._write(one, is_copy, ids) for one in new]
            append(self.path / PICTURES, [to_plain(picture) for picture in added])
            for picture in added:
                self._register(picture)
            return added

    def _write(self, one: NewPicture, is_copy: bool, ids: set[str]) -> BoardPicture:
        digest = sha256(one.payload).hexdigest()
        id, number = digest[:24], 1
        while id in self.pictures or id in ids:  # the same bytes twice, in a data set
            number += 1
            id = f"{digest[:24]}-{number}"
        ids.add(id)
        path = self.path / "pictures" / f"{id}{one.suffix}"
        if is_copy:
            path.write_bytes(one.payload)
        else:
            write_bytes(path, one.payload)
        return BoardPicture(
            id=id,
            name=one.name,
            file=path.name,
            sha256=digest,
            width=one.width,
            height=one.height,
            split=one.split,
            group=one.group,
            source=one.source or one.name,
        )

    def set_split(self, id: str, split: Split) -> None:
        """Move a picture that is not on the board into another split."""
        with self.lock:
            picture = replace(self.pictures[id], split=split)
            append(self.path / PICTURES, [to_plain(picture)])
            self._register(picture)

    def picture_path(self, id: str) -> Path:
        """The file of a picture. Raises: KeyError for an unknown id."""
        return self.path / "pictures" / self.pictures[id].file

    def thumbnail_path(self, id: str) -> Path:
        """The thumbnail of a picture, which may not exist yet."""
        return self.path / "thumbnails" / f"{id}.jpg"

    def write_thumbnail(self, id: str, jpeg: bytes) -> None:
        """Write a thumbnail; it can be made again, so nothing is synced to disk."""
        path = self.thumbnail_path(id)
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{id}-{threading.get_ident()}")
        partial.write_bytes(jpeg)
        partial.replace(path)

    # ---- Runs.

    def write_table(self) -> tuple[int, Path]:
        """Write the present labels as a table, numbered as the next run.

        Raises: UsageError naming a picture whose file is missing.
        """
        with self.lock:
            for id in self.board.labels:
                if not self.picture_path(id).exists():
                    raise UsageError(
                        f"{self.pictures[id].name} is missing from {self.path / 'pictures'}; take "
                        "it off the board, or add it again."
                    )
            number = 1 + max(self.numbers(), default=0)
            path = self.path / f"board-{number}.csv"
            write_bytes(path, self.table().encode())
            append(self.path / CHANGES, [{"run": number}])
            self.history.replay({"run": number})
            return number, path

    def write_draft(self) -> Path:
        """As `write_table`, for a forecast only."""
        with self.lock:
            path = self.path / "draft.csv"
            write_bytes(path, self.table().encode())
            return path

    def table(self) -> str:
        return table_of(self.board, self.pictures, self.about.label_column or LABEL)

    def numbers(self) -> list[int]:
        """The numbers of runs, finished or not, in order."""
        folder = self.path / "runs"
        names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        tables = [path.stem.removeprefix("board-") for path in self.path.glob("board-*.csv")]
        return sorted({int(name) for name in (*names, *tables) if name.isdecimal()})

    def run(self, number: int) -> Path:
        """The folder of a run."""
        return self.path / "runs" / str(number)


def _lock(path: Path) -> Any:
    """Lock a project while the returned file is open."""
    file = open(path / ".lock", "a", encoding="utf-8")  # noqa: SIM115  (`close` does)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunFolderError(
            f"another studio is open on {path}; use that one, or close it first."
        ) from None
    except OSError:  # a disk without locks
        pass
    return file


# ---- Pictures: decoded, as thumbnails, or imported from a data set.


CHUNK = 200  # pictures between two lines of progress
SUFFIXES = {  # by Pillow's format
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
}


def decode_picture(payload: bytes, name: str) -> tuple[NewPicture, bytes] | str:
    """A picture to add and its thumbnail, or why it cannot be read."""
    try:
        image = picture_of(payload, name, SIDE)
    except DataError as error:
        return str(error)
    width, height = image.size
    suffix = suffix_of(payload, name)
    picture = NewPicture(name=name, payload=payload, suffix=suffix, width=width, height=height)
    return picture, small_jpeg(image)


def thumbnail(payload: bytes, name: str) -> bytes:
    """A small JPEG of a picture. Raises: DataError where it cannot be read."""
    return small_jpeg(picture_of(payload, name, SIDE))


def suffix_of(payload: bytes, name: str) -> str:
    """The file suffix for these bytes, by their content rather than the name."""
    for format, suffix in SUFFIXES.items():
        accept = Image.OPEN[format][1]
        if accept is not None and accept(payload[:16]) is True:
            return suffix
    suffix = PurePosixPath(name).suffix.lower()
    modality, default = MODALITIES["image"], ".jpg"
    if is_sound(payload):
        modality, default = MODALITIES["audio"], ".wav"
    return suffix if suffix in modality.suffixes else default


def import_data(
    project: Project, data: str, label: str | None, group: str | None, task: TaskOption = "auto"
) -> Steps[int]:
    """Copy a data set's pictures and labels into an empty project; returns how many are unreadable.

    Raises: DataError if it cannot be read, or none of its pictures.
    """
    listing = list_examples(data, Columns(label=label, group=group, task=task), None)
    if not MODALITIES[listing.kind].has_thumbnails:
        raise DataError(
            f"{data} holds {listing.wording.noun}s, and the studio shows pictures; use "
            "`warmstart fit`"
        )
    target = task_for(task, listing)
    listing = normalise(listing, target)
    project.set_task(target.task, next(iter(listing.outputs), None))
    labels: dict[str, str] = {}
    n_unreadable, n = 0, len(listing.rows)
    unused = set(project.pictures)  # of an interrupted import
    yield Event(stage="read", kind="begin")
    for begin in range(0, n, CHUNK):
        rows = listing.rows[begin : begin + CHUNK]
        read = list(_read(listing, rows))
        pictures = _reuse_or_add(project, [one for one, _ in read], unused)
        labels |= {one.id: label for one, (_, label) in zip(pictures, read, strict=True)}
        n_unreadable += len(rows) - len(read)
        yield Event(stage="read", kind="step", step=len(labels) + n_unreadable, of=n)
    if not labels:
        raise DataError(f"{data} holds no picture that can be read.")
    os.sync()
    project.change(lambda board: add_pictures(board, labels))
    yield Event(stage="read", kind="end", step=n, of=n)
    return n_unreadable


def _reuse_or_add(
    project: Project, pictures: Sequence[NewPicture], unused: set[str]
) -> list[BoardPicture]:
    """The project's pictures: existing ones of `unused`, each once, or new ones."""
    existing: list[BoardPicture | None] = []
    for one in pictures:
        same = next((other for other in project.find(one.payload) if other.id in unused), None)
        if same is not None:
            unused.discard(same.id)
        is_same = same is not None and (same.split, same.group) == (one.split, one.group)
        existing.append(same if is_same else None)
    new = [one for one, same in zip(pictures, existing, strict=True) if same is None]
    added = iter(project.add(new, is_copy=True))
    return [next(added) if same is None else same for same in existing]


def _read(listing: Listing, rows: Sequence[Row]) -> Iterator[tuple[NewPicture, str]]:
    """The rows whose file can be read, with their labels.

    Feature extraction decodes them, and names those that it cannot.
    """
    for row in rows:
        try:
            payload = listing.load(row.id)
        except (DataError, OSError):
            continue
        name = PurePosixPath(row.id).name
        picture = NewPicture(
            name=name,
            payload=payload,
            suffix=suffix_of(payload, name),
            split=row.split,
            group=row.group,
            source=row.id,
        )
        yield picture, row.label
