"""What a user may name as data, and which reader takes it."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from warmstart.data.archive import TAR_SUFFIXES, open_tar, open_zip
from warmstart.data.arrays import list_arrays
from warmstart.data.collection import Columns, Listing
from warmstart.data.layouts import list_place
from warmstart.data.place import IMAGE_SUFFIXES, TABLE_SUFFIXES, open_folder, read_file, suffix
from warmstart.data.samples import PREFIX, list_sample
from warmstart.data.tables import list_table
from warmstart.errors import DataError

Source = str | os.PathLike[str] | tuple[Any, Any]


def list_source(source: Source, columns: Columns) -> Listing:
    """List a folder, table, archive, sample or pair of arrays.

    Raises: DataError if there is no such thing, or it is of a kind that is not read.

    >>> list_source("sample:digits", Columns()).title
    '1,797 scans of handwritten digits (scikit-learn)'
    """
    if isinstance(source, tuple) and len(source) == 2:
        return list_arrays(*source)
    if not isinstance(source, (str, os.PathLike)):
        raise DataError(
            f"data of type {type(source).__name__} is not read; give a path or arrays (X, y)"
        )
    text = os.fspath(source)
    if text.startswith(PREFIX):
        return list_sample(text)
    if re.match(r"[a-z0-9]+://", text, re.IGNORECASE):
        raise DataError(f"{text} is a web address; download it and name the folder or archive")
    if not text.strip():
        raise DataError("the data has an empty name; name a folder, a table or an archive")
    return _list_path(Path(text).expanduser(), str(Path(text)), columns)


def _list_path(path: Path, shown: str, columns: Columns) -> Listing:
    if not os.path.exists(path):
        raise DataError(_missing(path, shown))
    if path.is_dir():
        return list_place(open_folder(path, shown), columns)
    if not path.is_file():
        raise DataError(f"{shown} is neither a file nor a folder; name a folder of class folders")
    kind = path.name.lower()
    if kind.endswith(".zip"):
        return list_place(open_zip(path, shown), columns)
    if kind.endswith(TAR_SUFFIXES):
        return list_place(open_tar(path, shown), columns)
    if suffix(kind) in TABLE_SUFFIXES:
        return _list_table_file(path, shown, columns)
    if suffix(kind) in IMAGE_SUFFIXES:
        raise DataError(f"{shown} is one file; name the folder that holds the class folders")
    raise DataError(
        f"{shown} is of a kind that is not read ({suffix(kind) or 'no suffix'}); name a folder, "
        ".csv, .tsv, .jsonl, .zip, .tar, .tar.gz or .tgz"
    )


def _list_table_file(path: Path, shown: str, columns: Columns) -> Listing:
    try:
        payload = read_file(path)
    except DataError as error:
        raise DataError(f"{shown} {error}; change its permissions or copy it again") from error
    return list_table(
        payload,
        shown=shown,
        name=path.stem,
        exists=lambda name: os.path.isfile(path.parent / name),
        load=lambda name: read_file(path.parent / name),
        columns=columns,
    )


def _missing(path: Path, shown: str) -> str:
    """Name the first part of the path that is missing, and its nearest sibling."""
    if path.is_symlink():
        return f"{shown} is a link that leads nowhere; point it to the data"
    lost = path
    while not os.path.exists(lost.parent) and lost.parent != lost:
        lost = lost.parent
    siblings = sorted(os.listdir(lost.parent)) if os.access(lost.parent, os.R_OK) else []
    near = difflib.get_close_matches(lost.name, siblings, 1)
    hint = f"did you mean {lost.with_name(near[0])}?" if near else "check the spelling"
    what = "" if lost == path else f" ({lost} is missing)"
    return f"{shown} does not exist{what}; {hint}"
