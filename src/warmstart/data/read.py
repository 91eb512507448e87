"""Read everything a user may name as data: find its reader, list it, hash it, check it."""

from __future__ import annotations

import difflib
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from warmstart.data.arrays import (
    Frame,
    ImageFolder,
    are_texts,
    frame_table,
    is_dataset,
    list_arrays,
    list_dataset,
    list_image_folder,
    list_in_memory,
    list_text_pairs,
    resolve_subset,
)
from warmstart.data.arrow import parse_parquet
from warmstart.data.dataset import (
    Collection,
    Columns,
    Listing,
    Row,
    as_split,
    check_unreadable,
    concatenate,
    unreadable,
)
from warmstart.data.labels import check_labels, check_split_labels, normalise, task_for
from warmstart.data.layouts import list_place
from warmstart.data.names import PREFIX, is_address
from warmstart.data.parsing import LABEL_NAMES, PATH_NAMES, Table, find_column, parse
from warmstart.data.place import (
    TAR_SUFFIXES,
    is_media,
    open_folder,
    open_tar,
    open_zip,
    read_file,
    suffix,
    with_kind,
)
from warmstart.data.tables import ReferencedFiles, list_table
from warmstart.data.webdataset import is_shard, list_shard, list_shards
from warmstart.errors import DataError, missing
from warmstart.events import Event, Steps
from warmstart.formatting import first_few
from warmstart.modalities.table import TABLE
from warmstart.modalities.text import TEXT
from warmstart.nouns import Wording, count
from warmstart.records.data import DataRecord, Example, Task, TaskOption
from warmstart.records.findings import Finding
from warmstart.records.inputs import KindOption
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.registry import TASKS
from warmstart.tasks.task import Target

Source = str | os.PathLike[str] | tuple[Any, Any] | Frame | ImageFolder


STAMPS = Path("/usr/share/tuxpaint/stamps")  # of the Debian package tuxpaint-stamps-default
STAMP_CLASSES = (
    *("animals/birds", "animals/fish", "animals/insects", "animals/mammals"),
    *("food/fruit", "food/vegetables", "plants/flowers", "clothes/hats", "town/houses"),
)


def _list_sample(source: str) -> Listing:
    samples = {"digits": _list_digits, "stamps": _list_stamps}
    name = source.removeprefix(PREFIX)
    if name not in samples:
        raise DataError(
            f"there is no {source}; the samples are {PREFIX}digits and {PREFIX}stamps (others "
            "would need a download: save one as a folder of class folders and name that folder)"
        )
    return samples[name]()


def _list_stamps() -> Listing:
    paths = {
        f"{folder.rpartition('/')[2]}/{path.relative_to(STAMPS / folder).as_posix()}": path
        for folder in STAMP_CLASSES
        for path in sorted((STAMPS / folder).rglob("*.png"))
    }
    if not paths:
        raise DataError(
            f"{PREFIX}stamps are the pictures of the Debian package tuxpaint-stamps-default, which "
            f"is not installed: run `apt-get install` for it, or use {PREFIX}digits"
        )
    return Listing(
        name="stamps",
        layout="sample",
        title=f"{count(len(paths), 'picture')} of animals, plants and things (Tux Paint stamps)",
        rows=tuple(Row(id=id, label=id.partition("/")[0]) for id in paths),
        load=lambda id: paths[id].read_bytes(),
        wording=Wording(source="sample:stamps", before="sample:stamps/", remove="it"),
    )


def _list_digits() -> Listing:
    from sklearn.datasets import load_digits  # here: it takes a second to import

    scans = load_digits()
    payloads, rows = {}, []
    for index, (scan, target) in enumerate(zip(scans.images, scans.target, strict=True)):
        id = f"{target}/{index:04}.png"
        buffer = io.BytesIO()
        pixels = np.rint(scan * 255 / 16).astype(np.uint8)  # scans hold 0..16
        Image.fromarray(pixels).save(buffer, format="PNG")
        payloads[id] = buffer.getvalue()
        rows.append(Row(id=id, label=str(target)))
    return Listing(
        name="digits",
        layout="sample",
        title=f"{count(len(rows), 'scan')} of handwritten digits (scikit-learn)",
        rows=tuple(rows),
        load=payloads.__getitem__,
        wording=Wording(source="sample:digits", before="sample:digits/", remove="it"),
    )


_REMEDIES = {  # for files of a kind that is not read
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV, or "),
    ".json": "write one object a line and call it .jsonl, or ",
    ".arrow": "name the folder that `save_to_disk` wrote, or ",
    **dict.fromkeys((".7z", ".rar", ".xz", ".bz2", ".gz"), "unpack it, or "),
}


def list_source(source: Source, columns: Columns) -> Listing:
    """List a folder, table, archive, sample, pair of arrays, DataFrame or data set object.

    Raises: DataError if it does not exist, is not supported, or is not of the kind in `columns`.
    """
    listing = with_kind(_list_source(source, columns))
    if columns.kind not in ("auto", listing.kind):
        raise DataError(
            f"--kind {columns.kind}: {listing.wording.source} holds {listing.wording.noun}s; drop "
            "--kind, or name other data"
        )
    return listing


def _list_source(source: Source, columns: Columns) -> Listing:
    if isinstance(source, tuple) and len(source) == 2:
        if columns.kind == TEXT.kind or are_texts(source[0], columns):
            return list_text_pairs(*source)
        return list_arrays(*source)
    if not isinstance(source, (str, os.PathLike)):
        return _list_object(source, columns)
    text = os.fspath(source)
    if text.startswith(PREFIX):
        return _list_sample(text)
    if is_address(text):
        raise DataError(f"{text} is a web address; download it and name the folder or archive")
    if not text.strip():
        raise DataError("the data has an empty name; name a folder, a table or an archive")
    return _list_path(Path(text).expanduser(), str(Path(text)), columns)


def _list_object(source: Any, columns: Columns) -> Listing:
    dataset, indices = resolve_subset(source)
    if isinstance(dataset, ImageFolder):
        return list_image_folder(dataset, indices)
    if (listing := list_in_memory(dataset, indices)) is not None:
        return listing
    if isinstance(source, Frame):
        return list_table(
            frame_table(source),
            source="the DataFrame",
            name="frame",
            files=_files_beside(Path()),  # paths are relative to the working directory
            columns=columns,
        )
    if is_dataset(source):
        return list_dataset(source)
    kind = type(source).__name__
    if hasattr(source, "save_to_disk"):
        raise DataError(
            f"data of type {kind} is not read; save it with .save_to_disk(FOLDER) and name FOLDER"
        )
    raise DataError(
        f"data of type {kind} is not read; give a path or arrays (X, y), a DataFrame with path "
        "and label columns, or an ImageFolder"
    )


def _list_path(path: Path, source: str, columns: Columns) -> Listing:
    if not os.path.exists(path):
        raise DataError(missing(path, source))
    if path.is_dir():
        return list_shards(path, source, columns) or list_place(open_folder(path, source), columns)
    if not path.is_file():
        raise DataError(f"{source} is neither a file nor a folder; name a folder of class folders")
    kind = path.name.lower()
    if kind.endswith(".zip"):
        return list_place(open_zip(path, source), columns)
    if kind.endswith(TAR_SUFFIXES):
        if kind.endswith(".tar") and is_shard(path):
            return list_shard(path, source, columns)
        return list_place(open_tar(path, source), columns)
    if suffix(kind) in TABLE.suffixes:
        return list_table(
            open_table(path, source),
            source=source,
            name=path.stem,
            files=_files_beside(path.parent),
            columns=columns,
        )
    if is_media(kind):
        raise DataError(f"{source} is one file; name the folder that holds the class folders")
    remedy = _REMEDIES.get(suffix(kind), "")
    raise DataError(
        f"{source} is of a kind that is not read ({suffix(kind) or 'no suffix'}); {remedy}name a "
        "folder, .csv, .tsv, .jsonl, .parquet, .zip, .tar, .tar.gz or .tgz"
    )


def load_table(path: Path, source: str) -> bytes:
    """The bytes of a table. Raises: DataError if it does not exist or cannot be read."""
    if not os.path.exists(path):
        raise DataError(missing(path, source))
    try:
        return read_file(path)
    except DataError as error:
        raise DataError(f"{source} {error}; change its permissions or copy it again") from error


def open_table(path: Path, source: str) -> Table:
    """A CSV, TSV, JSON lines or Parquet table on disk.

    Raises: DataError if it is of another kind, does not exist or is damaged.
    """
    if suffix(path.name) not in TABLE.suffixes:
        raise DataError(f"{source} is not a table; name a .csv, .tsv, .jsonl or .parquet file")
    if suffix(path.name) == ".parquet":
        return parse_parquet(path, source)
    return parse(load_table(path, source), source)


def _files_beside(folder: Path) -> ReferencedFiles:
    """A table on disk may name any path; only `inside`, for embedded images, may not leave."""

    def inside(name: str) -> Callable[[], bytes] | None:
        path = folder / name
        is_inside = path.is_file() and path.resolve().is_relative_to(folder.resolve())
        return partial(read_file, path) if is_inside else None

    return ReferencedFiles(
        exists=lambda name: os.path.isfile(folder / name),
        load=lambda name: read_file(folder / name),
        inside=inside,
    )


# ---- Labels that the user corrected, by the id of the example: `--relabel fixed.csv`.

DROP = "drop"  # the label of a row to be left out; an empty cell says the same


def apply_relabel(listing: Listing, payload: bytes, source: str, target: Target) -> Listing:
    """A normalised listing, its labels overridden by a table of `path` and `label`."""
    cells = _corrections(listing, payload, source)
    is_name = any(DROP in target.names(row.label) for row in listing.rows)
    dropped = {
        id
        for id, cell in cells.items()
        if (not cell and not target.has_label_sets) or (cell.casefold() == DROP and not is_name)
    }
    remaining = [row for row in listing.rows if row.id not in dropped]
    overridden = tuple(replace(r, label=cells[r.id]) for r in remaining if r.id in cells)
    wording = replace(listing.wording, source=source)
    corrections = replace(listing, rows=overridden, form="texts", label_problem="", wording=wording)
    normalised = normalise(corrections, target, are_corrections=True)
    corrected = {row.id: row for row in normalised.rows}
    rows = [corrected.get(row.id, row) for row in remaining]
    n_changed = sum(new.label != old.label for new, old in zip(rows, remaining, strict=True))
    if target.has_classes:
        _check_sizes(listing, rows, source)
    name = PurePosixPath(source).name
    layout = f"{listing.layout}; labels corrected by {name} ({n_changed + len(dropped):,})"
    return replace(listing, rows=tuple(rows), layout=layout)


def _corrections(listing: Listing, payload: bytes, source: str) -> dict[str, str]:
    """The label of each id that the table names."""
    table = parse(payload, source)
    path = find_column(table.columns, None, PATH_NAMES, "path", source)
    label = find_column(table.columns, None, LABEL_NAMES, "label", source)
    ids = {row.id for row in listing.rows}
    # Spreadsheets write the id 0012 back as 12.
    without_zeros = {id.lstrip("0"): id for id in ids if id.isdecimal()}
    labels: dict[str, str] = {}
    lines: dict[str, str] = {}
    unknown: list[tuple[str, str]] = []
    for row, (path_cell, cell) in enumerate(
        zip(table.texts(path), table.texts(label), strict=True)
    ):
        id = path_cell if path_cell in ids else (path_cell or "").strip()
        if id not in ids and id.isdecimal():
            id = without_zeros.get(id.lstrip("0"), id)
        where = table.where(row)
        if id in lines:
            raise DataError(f"{source} names {id} in {lines[id]} and {where}; keep one of them")
        if cell is None:
            raise DataError(f'{source} {where}: "{label}" is not a text or number; give one label')
        if id not in ids:
            unknown.append((id or "an empty path", where))
        lines[id], labels[id] = where, cell.strip()
    if unknown:
        id, where = unknown[0]
        raise DataError(
            f"{source}: {len(unknown):,} of {count(len(lines), 'path')} not in "
            f"{listing.wording.source} (first: {id}, {where}); {_suggestion(id, sorted(ids))}"
        )
    return labels


def _suggestion(id: str, ids: Sequence[str]) -> str:
    name = PurePosixPath(id).name
    similar = [other for other in ids if PurePosixPath(other).name == name]
    similar = similar or difflib.get_close_matches(id, ids[:20_000], 1)
    return f"did you mean {similar[0]}?" if similar else "give the paths as warmstart wrote them"


def _check_sizes(listing: Listing, rows: Sequence[Row], source: str) -> None:
    """Blame the corrections for a class that they leave with one training image."""
    before = Counter(row.label for row in listing.rows if row.split == "train")
    after, noun = Counter(row.label for row in rows if row.split == "train"), listing.wording.noun
    for label, size in sorted(after.items()):
        if size > 1 or size == before[label]:
            continue
        if label in before:
            raise DataError(
                f"{source} leaves {listing.wording.place(label)} with 1 training {noun}; a class "
                "needs at least 2. Drop that one too, or keep another."
            )
        close = difflib.get_close_matches(label, list(before), 1)
        remedy = f"did you mean {close[0]}?" if close else f"known are: {first_few(sorted(before))}"
        raise DataError(
            f'{source} gives one training {noun} the new class "{label}", and a class needs at '
            f"least 2; {remedy}"
        )


STEP = 500  # files between two events


def read(
    source: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    test: Source | None = None,
    relabel: str | os.PathLike[str] | None = None,
    text: str | None = None,
    kind: KindOption = "auto",
    task: TaskOption = "auto",
    strict: bool = False,
) -> Steps[Collection]:
    """Read labelled examples: list them, hash their bytes, check their classes.

    `source` is a folder of class folders, one with train/, val/ and test/, a CSV, TSV, JSON
    lines or Parquet table, a zip or tar of those, a data set that `datasets` saved on disk,
    `sample:digits`, arrays (X, y), a DataFrame, or a torchvision ImageFolder. `label`, `group`
    and `text` name columns of a table. `kind` says what the examples are and `task` what the
    labels are; "auto" infers both from the data. `test` is another source, whose ids then
    begin with "test/". `relabel` is a table of corrections by id: see `apply_relabel`.
    Yields events of stage "read". Files that cannot be read are left out and listed, up to a
    tenth of the data; with `strict` the first one is an error.
    Raises: DataError if the data cannot be used.

    >>> from warmstart.events import drain
    >>> drain(read("sample:digits")).record.classes
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group, text=text, kind=kind, task=task)
    listing = list_examples(source, columns, test)
    target = task_for(task, listing)
    listing = normalise(listing, target)
    if relabel is not None:
        table = os.fspath(relabel)
        payload = load_table(Path(table).expanduser(), table)
        listing = apply_relabel(listing, payload, table, target)
    outputs = check_labels(listing.rows, listing.outputs, listing.wording, target)
    check_split_labels(listing.rows, outputs, listing.wording, target)
    examples, problems = yield from _hash(listing, strict)
    classes = check_labels(examples, listing.outputs, listing.wording, target)
    n = len(listing.rows)
    values: dict[str, float | int | str] = {"examples": len(examples), "classes": len(classes)}
    yield Event(stage="read", kind="end", step=n, of=n, values=values)
    return _collection(listing, examples, classes, problems, target.task, strict)


def read_for_scoring(
    source: Source,
    classes: Sequence[str],
    *,
    label: str | None = None,
    group: str | None = None,
    text: str | None = None,
    kind: KindOption = "auto",
    task: Task = CLASSIFICATION.task,
) -> Steps[Collection]:
    """Read labelled examples to score a finished model on: the test set, else all.

    One class, or one image, is enough here. Every example comes back with split "test".
    Raises: DataError if there is no image, or a label is not a class of the model.
    """
    yield Event(stage="read", kind="begin")
    columns = Columns(label=label, group=group, text=text, kind=kind, task=task)
    listing = list_examples(source, columns, None)
    target = TASKS[task]
    listing = normalise(replace(listing, label_problem=""), target)
    tests = [row for row in listing.rows if row.split == "test"] or listing.rows
    unknown = sorted({n for row in tests for n in target.names(row.label)} - set(classes))
    if not tests:
        raise DataError(
            f"{listing.wording.source} holds no labelled {listing.wording.noun}; name a folder "
            "that does"
        )
    if unknown:
        raise DataError(
            f"{listing.wording.source} has the class {unknown[0]!r}, which this model does not "
            f"know. It knows: {first_few(classes)}. Rename or leave out that class."
        )
    listing = replace(listing, rows=tuple(replace(row, split="test") for row in tests))
    examples, problems = yield from _hash(listing, strict=False)
    yield Event(stage="read", kind="end", step=len(examples), of=len(tests))
    return _collection(listing, examples, tuple(classes), problems, task, strict=False)


def with_test(listing: Listing, test: Listing) -> Listing:
    """Join a listing and another source that becomes its test set.

    Raises: DataError if the listing has a test set already, or the other source has splits.
    """
    if any(row.split == "test" for row in listing.rows):
        raise DataError(
            f"{listing.wording.source} has a test set already; drop --test, or name only its "
            "train folder"
        )
    if any(row.split != "train" for row in test.rows):
        raise DataError(
            f"{test.wording.source}, named with --test, has several splits; name one of them"
        )
    ids = {row.id for row in listing.rows}
    prefix = "test/"
    while any(prefix + row.id in ids for row in test.rows):
        prefix += "test/"
    layout = f"{listing.layout}; test: {test.layout}"
    return concatenate((listing, as_split(test, prefix, "test")), layout)


def list_examples(source: Source, columns: Columns, test: Source | None) -> Listing:
    """List labelled examples, with another source as their test set; no file is opened.

    Raises: DataError if there is no such thing, or it has no such column.
    """
    listing = list_source(source, columns)
    if test is not None:
        listing = with_test(listing, list_source(test, columns))
    options = (("label", columns.label), ("group", columns.group), ("text", columns.text))
    option = next((f"--{name} {column}" for name, column in options if column), "")
    if not listing.is_table and option:
        raise DataError(
            f"{option} names a column, but {listing.wording.source} is not a table; drop it"
        )
    return listing


def _collection(
    listing: Listing,
    examples: tuple[Example, ...],
    classes: tuple[str, ...],
    problems: tuple[Finding, ...],
    task: Task,
    strict: bool,
) -> Collection:
    record = DataRecord(
        name=listing.name,
        kind=listing.kind,
        task=task,
        layout=listing.layout,
        classes=classes,
        examples=examples,
        problems=listing.problems + problems,
    )
    return Collection(
        record=record,
        load=listing.load,
        title=listing.title,
        wording=listing.wording,
        n_harmless=listing.n_harmless,
        strict=strict,
    )


def _hash(listing: Listing, strict: bool) -> Steps[tuple[tuple[Example, ...], tuple[Finding, ...]]]:
    """Hash every file in one pass; what cannot be read becomes a finding."""
    source = listing.wording.source
    if strict:
        check_unreadable(listing.problems, len(listing.rows), source, strict=True)
    examples, reasons = [], {}
    texts: dict[str, str] = {}  # one label object for all examples of a class
    for index, row in enumerate(listing.rows):
        if index % STEP == 0:
            yield Event(stage="read", kind="step", step=index, of=len(listing.rows))
        try:
            payload = listing.load(row.id)
        except DataError as error:
            reasons[row.id] = str(error)
            if strict:
                break
            continue
        examples.append(
            Example(
                id=row.id,
                label=texts.setdefault(row.label, row.label),
                split=row.split,
                sha256=hashlib.sha256(payload).hexdigest(),
                group=row.group,
            )
        )
    problems = unreadable(reasons, f"{count(len(reasons), 'file')} could not be read and left out.")
    check_unreadable(
        (*listing.problems, *problems),
        len(examples),
        source,
        strict=strict,
        n_harmless=listing.n_harmless,
    )
    return tuple(examples), problems
