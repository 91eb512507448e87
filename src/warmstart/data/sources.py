"""Everything a user may name as data, and the reader for it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from warmstart.data.archive import TAR_SUFFIXES, open_tar, open_zip
from warmstart.data.arrays import are_texts, list_arrays, list_text_pairs
from warmstart.data.arrow import parse_parquet
from warmstart.data.dataset import Columns, Listing, Row
from warmstart.data.layouts import list_place
from warmstart.data.names import PREFIX, is_address
from warmstart.data.objects import (
    Frame,
    ImageFolder,
    frame_table,
    images_in_memory,
    is_dataset,
    list_dataset,
    list_image_folder,
    resolve_subset,
)
from warmstart.data.parsing import Table, parse
from warmstart.data.place import (
    MEDIA_SUFFIXES,
    as_audio,
    open_folder,
    read_file,
    suffix,
)
from warmstart.data.tables import ReferencedFiles, list_table
from warmstart.data.webdataset import is_shard, list_shard, list_shards
from warmstart.errors import DataError, missing
from warmstart.modalities.image import IMAGE
from warmstart.modalities.table import TABLE
from warmstart.modalities.text import TEXT
from warmstart.nouns import Wording, count

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

    >>> list_source("sample:digits", Columns()).title
    '1,797 scans of handwritten digits (scikit-learn)'
    """
    listing = as_audio(_list_source(source, columns))
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
    if (pair := images_in_memory(dataset)) is not None:
        return _list_in_memory(dataset, *pair, indices)
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


def _list_in_memory(
    dataset: Any, images: Any, labels: list[Any], indices: list[int] | None
) -> Listing:
    """Images that a data set holds in memory, or some of them; ids are their numbers there."""
    numbers = range(len(labels)) if indices is None else indices
    if isinstance(images, list):
        images = [images[number] for number in numbers]
    elif indices is not None:
        images = images[indices]
    listing = list_arrays(images, [labels[number] for number in numbers])
    name = type(dataset).__name__
    return replace(
        listing,
        name=name.lower(),
        layout=f"{name}: {listing.layout}",
        title=f"{IMAGE.nouns.count(len(numbers))} in a {name}",
        wording=Wording.of_classes(f"the {name}", "its examples"),
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
    if suffix(kind) in MEDIA_SUFFIXES:
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
