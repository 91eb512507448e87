"""Texts that a finished model is to name: typed, in files, or in the rows of a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.data.arrow import parse_parquet
from warmstart.data.collection import Columns
from warmstart.data.parsing import Table, parse
from warmstart.data.place import TABLE_SUFFIXES, TEXT_SUFFIXES, read_file, suffix
from warmstart.data.texts import payload_of
from warmstart.data.texttable import text_column
from warmstart.errors import DataError

LONGEST_PATH = 255  # signs: what is longer is a text, not the name of a file


@dataclass(frozen=True, slots=True)
class GivenText:
    """A text and what it is called in an answer."""

    name: str
    text: str


def find_texts(given: Sequence[str], column: str | None = None) -> list[str | GivenText]:
    """Texts as typed or the files that hold them; tables stand for their rows, folders for files.

    Raises: DataError if a folder holds no text, or a table no column of them.
    """
    found: list[str | GivenText] = []
    for item in given:
        if not is_path(item):
            found.append(item)
        elif os.path.isdir(item):
            found += _in_folder(item)
        elif suffix(item) in TABLE_SUFFIXES:
            found += _in_table(item, column)
        else:
            found.append(item)
    return found


def is_path(item: str) -> bool:
    """Whether a word is a file or folder that is there; else it is a text."""
    return len(item) <= LONGEST_PATH and "\0" not in item and os.path.exists(item)


def _in_folder(folder: str) -> list[str]:
    files = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in TEXT_SUFFIXES]
    if not files:
        raise DataError(f"{folder} holds no .txt files; name texts, or a folder that holds some.")
    return [str(path) for path in files]


def _in_table(shown: str, column: str | None) -> Iterator[GivenText]:
    is_parquet = suffix(shown) == ".parquet"
    table = parse_parquet(shown, shown) if is_parquet else parse(_read(Path(shown)), shown)
    name = text_column(table, Columns(text=column, kind="text"), shown)
    return _rows(table, str(name), shown)


def _rows(table: Table, column: str, shown: str) -> Iterator[GivenText]:
    for row, cell in enumerate(table.texts(column)):
        yield GivenText(f"{shown}:{table.lines[row]}", cell or "")


def text_payload(item: Any, name: str) -> bytes:
    """What was given as the bytes that a text is known by.

    Raises: DataError if it is no text, or a file that cannot be read.
    """
    if isinstance(item, GivenText):
        return payload_of(item.text)
    if isinstance(item, Path) or (isinstance(item, str) and is_path(item)):
        return _read(Path(item))
    if isinstance(item, str):
        return payload_of(item)
    raise DataError(
        f"{name} is of type {type(item).__name__}; give a text, or the path of a .txt file"
    )


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path} is a folder")
    try:
        return read_file(path)
    except DataError as error:
        raise DataError(f"{path} {error}") from error
