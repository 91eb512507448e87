"""What `predict` is given, as a list of items, and whether it was a single one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from warmstart.data.arrow import parse_parquet
from warmstart.data.dataset import Columns, some
from warmstart.data.objects import Frame, as_values, frame_table
from warmstart.data.parsing import Table, parse, text_of
from warmstart.data.place import MEDIA_SUFFIXES, TABLE_SUFFIXES, TEXT_SUFFIXES, read_file, suffix
from warmstart.data.sources import open_table
from warmstart.data.tables import row_payloads, text_column
from warmstart.errors import DataError
from warmstart.modalities.table import pack
from warmstart.modalities.text import payload_of
from warmstart.nouns import IMAGES, Nouns, nouns_of
from warmstart.records.inputs import (
    Inputs,
    Preprocessing,
    TableInputs,
    TensorInputs,
    TextInputs,
    kind_of,
)

# ---- New rows of tables, and tensors, as a finished model takes them.


@dataclass(frozen=True, slots=True)
class NamedInput:
    """An example that has no file of its own: its name in answers, the bytes that stand for it."""

    name: str
    payload: bytes


def opened(inputs: Any, wanted: Inputs) -> Sequence[Any]:
    """What was given to be answered, one by one: rows of a table, tensors; others as they are.

    Rows come as paths of tables, as a DataFrame, or as mappings from column to value.
    Raises: DataError for a table that cannot be read, or lacks a column that the model takes.
    """
    if isinstance(wanted, TableInputs):
        return list(_rows(inputs, wanted))
    if isinstance(wanted, TensorInputs):
        return [_tensor(item, f"#{place}") for place, item in enumerate(inputs)]
    found: Sequence[Any] = inputs
    return found


def _rows(inputs: Any, wanted: TableInputs) -> Iterator[NamedInput]:
    if isinstance(inputs, Frame) and not isinstance(inputs, Mapping):
        yield from _of_table(frame_table(inputs), "the DataFrame", wanted)
        return
    for place, item in enumerate([inputs] if isinstance(inputs, (str, Path, Mapping)) else inputs):
        if isinstance(item, (str, Path)):
            yield from _of_table(open_table(Path(item).expanduser(), str(item)), str(item), wanted)
        elif isinstance(item, Mapping):
            yield NamedInput(f"#{place}", pack({str(k): text_of(v) or "" for k, v in item.items()}))
        else:
            raise DataError(
                f"#{place} is of type {type(item).__name__}; give tables by their path, a "
                "DataFrame, or rows as mappings from column to value"
            )


def _of_table(table: Table, shown: str, wanted: TableInputs) -> Iterator[NamedInput]:
    lost = [column.name for column in wanted.columns if column.name not in table.columns]
    if lost:
        raise DataError(
            f"{shown} has no column {some([repr(name) for name in lost], 3)}, which the model "
            f"takes; it has: {some(table.columns, 20)}. Add it, empty where it is not known"
        )
    for id, payload in row_payloads(table, (), shown).items():
        yield NamedInput(f"{shown} {id}", payload)


def _tensor(item: Any, name: str) -> NamedInput:
    """A tensor, or a pair of one and its class, as a data set gives it."""
    values = item[0] if isinstance(item, tuple) and len(item) == 2 else item
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, as_values(values, name), allow_pickle=False)
    return NamedInput(name, buffer.getvalue())


# ---- Texts that a finished model is to name: typed, in files, or in the rows of a table.


LONGEST_PATH = 255  # signs: what is longer is a text, not the name of a file


@dataclass(frozen=True, slots=True)
class InputText:
    """A text and what it is called in an answer."""

    name: str
    text: str


def find_texts(given: Sequence[str], column: str | None = None) -> list[str | InputText]:
    """Texts as typed or the files that hold them; tables stand for their rows, folders for files.

    Raises: DataError if a folder holds no text, or a table no column of them.
    """
    found: list[str | InputText] = []
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


def _in_table(shown: str, column: str | None) -> Iterator[InputText]:
    is_parquet = suffix(shown) == ".parquet"
    table = parse_parquet(shown, shown) if is_parquet else parse(read_path(Path(shown)), shown)
    name = text_column(table, Columns(text=column, kind="text"), shown)
    return _texts_rows(table, str(name), shown)


def _texts_rows(table: Table, column: str, shown: str) -> Iterator[InputText]:
    for row, cell in enumerate(table.texts(column)):
        yield InputText(f"{shown}:{table.lines[row]}", cell or "")


def text_payload(item: Any, name: str) -> bytes:
    """What was given as the bytes that a text is known by.

    Raises: DataError if it is no text, or a file that cannot be read.
    """
    if isinstance(item, InputText):
        return payload_of(item.text)
    if isinstance(item, Path) or (isinstance(item, str) and is_path(item)):
        return read_path(Path(item))
    if isinstance(item, str):
        return payload_of(item)
    raise DataError(
        f"{name} is of type {type(item).__name__}; give a text, or the path of a .txt file"
    )


def read_path(path: Path) -> bytes:
    """The bytes of a file that a user named. Raises: DataError, which names it."""
    if path.is_dir():
        raise DataError(f"{path} is a folder")
    try:
        return read_file(path)
    except DataError as error:
        raise DataError(f"{path} {error}") from error


Items = Sequence[Any]
PICTURE_CHANNELS = (1, 3, 4)  # grey, colour, colour with alpha: a network for pictures takes all
SINGLE = (str, bytes, Path, Image.Image, Mapping, InputText)


def items_of(inputs: Any, wanted: Inputs) -> tuple[Items, bool]:
    """The items of `inputs` as a model takes them, and whether `inputs` was one example.

    A folder, a table, a stack of arrays, a list and every other iterable are many.
    Raises: DataError for a folder or a table that holds nothing the model takes.
    """
    if isinstance(wanted, TextInputs):
        return _texts(inputs)
    if isinstance(wanted, TableInputs):
        return opened(inputs, wanted), isinstance(inputs, Mapping)
    if isinstance(wanted, TensorInputs):
        return _tensors(inputs, wanted)
    return _files_or_arrays(inputs, wanted)


def _texts(inputs: Any) -> tuple[Items, bool]:
    if isinstance(inputs, (str, Path)):
        name = str(inputs)
        is_many = is_path(name) and (os.path.isdir(name) or suffix(name) in TABLE_SUFFIXES)
        return (find_texts([name]), False) if is_many else ([inputs], True)
    return ([inputs], True) if _is_single(inputs) else (list(inputs), False)


def _tensors(inputs: Any, wanted: TensorInputs) -> tuple[Items, bool]:
    """One tensor, or a pair of one and its class as a data set gives it, is one example."""
    is_pair = isinstance(inputs, tuple) and len(inputs) == 2 and np.ndim(inputs[1]) == 0
    is_array = isinstance(inputs, (np.ndarray, Tensor))
    is_one = is_pair or _is_single(inputs) or (is_array and inputs.ndim <= len(wanted.shape))
    return opened([inputs] if is_one else list(inputs), wanted), is_one


def _files_or_arrays(inputs: Any, wanted: Inputs) -> tuple[Items, bool]:
    nouns = nouns_of(kind_of(wanted))
    if isinstance(inputs, (str, Path)):
        return (find_files([inputs], nouns), False) if os.path.isdir(inputs) else ([inputs], True)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OU":
        inputs = inputs.tolist()
    if isinstance(inputs, (np.ndarray, Tensor)):
        is_one = inputs.ndim < 3 or (inputs.ndim == 3 and _is_image(inputs, wanted))
        found = [inputs] if is_one else list(inputs)
        return [channels_last(one, wanted) for one in found], is_one
    if _is_single(inputs):
        return [inputs], True
    return [channels_last(one, wanted) for one in find_files(inputs, nouns)], False


def _is_single(item: Any) -> bool:
    """Whether something that is no array cannot be gone through, or should not be."""
    return isinstance(item, (*SINGLE, Frame)) or not isinstance(item, Iterable)


def _is_image(values: Any, wanted: Inputs) -> bool:
    """Whether three axes are one image and not a stack of grey ones: one axis is channels.

    The channels of an array come last, those of a tensor come first or last.
    """
    known = _channels(wanted)
    is_first = isinstance(values, Tensor) and values.shape[0] in known
    return values.shape[-1] in known or is_first


def _channels(wanted: Inputs) -> tuple[int, ...]:
    if isinstance(wanted, Preprocessing) and wanted.ranges:
        return (wanted.channels,)
    return PICTURE_CHANNELS


def channels_last(item: Any, wanted: Inputs) -> Any:
    """A tensor (C, H, W) as an array (H, W, C); everything else as it is."""
    if not isinstance(item, Tensor):
        return item
    values = item.detach().cpu().numpy()
    known = _channels(wanted)
    is_first = values.ndim == 3 and values.shape[0] in known and values.shape[-1] not in known
    return np.moveaxis(values, 0, 2) if is_first else values


def find_files(paths: Iterable[Any], nouns: Nouns = IMAGES) -> list[Any]:
    """Files as named, and the images, or clips, of folders; what is no path as it is.

    Raises: DataError if a folder holds no image.
    """
    found: list[Any] = []
    for item in paths:
        if not isinstance(item, (str, Path)) or not os.path.isdir(item):
            found.append(item)
            continue
        path, many = Path(item), nouns.many
        inside = [p for p in sorted(path.rglob("*")) if _is_media(p, path)]
        if not inside:
            raise DataError(f"{item} holds no {many}; name {many}, or a folder that holds some.")
        found += map(str, inside)
    return found


def _is_media(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    # A pipe or a link that leads nowhere as well: its answer says why there is none.
    return path.suffix.lower() in MEDIA_SUFFIXES and not hidden and not path.is_dir()
