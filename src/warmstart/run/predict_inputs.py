"""The inputs of `predict` as a list of items, and whether they are a single example."""

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

Items = Sequence[Any]
LONGEST_PATH = 255  # characters: a longer word is a text, not the name of a file
PICTURE_CHANNELS = (1, 3, 4)  # grey, colour, colour with alpha: a picture network takes all


@dataclass(frozen=True, slots=True)
class NamedInput:
    """An example without a file: its name in answers, and the bytes that stand for it."""

    name: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class InputText:
    """A text and its name in answers."""

    name: str
    text: str


SINGLE = (str, bytes, Path, Image.Image, Mapping, InputText)


def items_of(inputs: Any, model: Inputs) -> tuple[Items, bool]:
    """The items of `inputs` as a model takes them, and whether `inputs` was one example.

    A folder, a table, a stack of arrays, a list and every other iterable are many.
    Raises: DataError for a folder or a table that holds nothing the model takes.
    """
    if isinstance(model, TextInputs):
        if isinstance(inputs, (str, Path)):
            name = str(inputs)
            is_many = is_path(name) and (os.path.isdir(name) or suffix(name) in TABLE_SUFFIXES)
            return (find_texts([name]), False) if is_many else ([inputs], True)
        return ([inputs], True) if _is_single(inputs) else (list(inputs), False)
    if isinstance(model, TableInputs):
        return opened(inputs, model), isinstance(inputs, Mapping)
    if isinstance(model, TensorInputs):
        # A pair of a tensor and its class, as a data set gives it, is one example.
        is_pair = isinstance(inputs, tuple) and len(inputs) == 2 and np.ndim(inputs[1]) == 0
        is_array = isinstance(inputs, (np.ndarray, Tensor))
        is_one = is_pair or _is_single(inputs) or (is_array and inputs.ndim <= len(model.shape))
        return opened([inputs] if is_one else list(inputs), model), is_one
    return _files_or_arrays(inputs, model)


def _files_or_arrays(inputs: Any, model: Inputs) -> tuple[Items, bool]:
    nouns = nouns_of(kind_of(model))
    if isinstance(inputs, (str, Path)):
        return (find_files([inputs], nouns), False) if os.path.isdir(inputs) else ([inputs], True)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OU":
        inputs = inputs.tolist()
    if isinstance(inputs, (np.ndarray, Tensor)):
        # Three axes are one image, not a stack of grey ones, where one axis is channels: the last
        # of an array, the first or last of a tensor.
        channels = _channels(model)
        is_first = isinstance(inputs, Tensor) and inputs.shape[0] in channels
        is_image = inputs.ndim == 3 and (inputs.shape[-1] in channels or is_first)
        is_one = inputs.ndim < 3 or is_image
        return [channels_last(x, model) for x in ([inputs] if is_one else list(inputs))], is_one
    if _is_single(inputs):
        return [inputs], True
    return [channels_last(item, model) for item in find_files(inputs, nouns)], False


def _is_single(item: Any) -> bool:
    """Whether an item that is no array cannot be iterated, or should not be."""
    return isinstance(item, (*SINGLE, Frame)) or not isinstance(item, Iterable)


def _channels(model: Inputs) -> tuple[int, ...]:
    if isinstance(model, Preprocessing) and model.ranges:
        return (model.channels,)
    return PICTURE_CHANNELS


def channels_last(item: Any, model: Inputs) -> Any:
    """A tensor (C, H, W) as an array (H, W, C); anything else unchanged."""
    if not isinstance(item, Tensor):
        return item
    values = item.detach().cpu().numpy()
    channels = _channels(model)
    is_first = values.ndim == 3 and values.shape[0] in channels and values.shape[-1] not in channels
    return np.moveaxis(values, 0, 2) if is_first else values


def opened(inputs: Any, model: Inputs) -> Items:
    """The inputs one by one: rows of tables and tensors as `NamedInput`, others unchanged.

    Rows come as paths of tables, as a DataFrame, or as mappings from column to value.
    Raises: DataError for a table that cannot be read, or lacks a column that the model takes.
    """
    if isinstance(model, TableInputs):
        return list(_rows(inputs, model))
    if not isinstance(model, TensorInputs):
        items: Items = inputs
        return items
    tensors = []
    for index, item in enumerate(inputs):
        values = item[0] if isinstance(item, tuple) and len(item) == 2 else item  # (tensor, class)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, as_values(values, f"#{index}"), allow_pickle=False)
        tensors.append(NamedInput(f"#{index}", buffer.getvalue()))
    return tensors


def _rows(inputs: Any, model: TableInputs) -> Iterator[NamedInput]:
    if isinstance(inputs, Frame) and not isinstance(inputs, Mapping):
        yield from _table_rows(frame_table(inputs), "the DataFrame", model)
        return
    for index, item in enumerate([inputs] if isinstance(inputs, (str, Path, Mapping)) else inputs):
        if isinstance(item, (str, Path)):
            table = open_table(Path(item).expanduser(), str(item))
            yield from _table_rows(table, str(item), model)
        elif isinstance(item, Mapping):
            yield NamedInput(f"#{index}", pack({str(k): text_of(v) or "" for k, v in item.items()}))
        else:
            raise DataError(
                f"#{index} is of type {type(item).__name__}; give tables by their path, a "
                "DataFrame, or rows as mappings from column to value"
            )


def _table_rows(table: Table, name: str, model: TableInputs) -> Iterator[NamedInput]:
    missing = [column.name for column in model.columns if column.name not in table.columns]
    if missing:
        raise DataError(
            f"{name} has no column {some([repr(column) for column in missing], 3)}, which the "
            f"model takes; it has: {some(table.columns, 20)}. Add it, empty where it is not known"
        )
    for id, payload in row_payloads(table, (), name).items():
        yield NamedInput(f"{name} {id}", payload)


def find_texts(items: Sequence[str], column: str | None = None) -> list[str | InputText]:
    """Texts as typed or the files that hold them; the rows of tables, the files of folders.

    Raises: DataError if a folder holds no text, or a table no column of them.
    """
    texts: list[str | InputText] = []
    for item in items:
        if not is_path(item):
            texts.append(item)
        elif os.path.isdir(item):
            files = [p for p in sorted(Path(item).rglob("*")) if p.suffix.lower() in TEXT_SUFFIXES]
            if not files:
                raise DataError(
                    f"{item} holds no .txt files; name texts, or a folder that holds some."
                )
            texts += map(str, files)
        elif suffix(item) in TABLE_SUFFIXES:
            is_parquet = suffix(item) == ".parquet"
            table = parse_parquet(item, item) if is_parquet else parse(read_path(Path(item)), item)
            name = str(text_column(table, Columns(text=column, kind="text"), item))
            cells = enumerate(table.texts(name))
            texts += [InputText(f"{item}:{table.lines[row]}", cell or "") for row, cell in cells]
        else:
            texts.append(item)
    return texts


def is_path(item: str) -> bool:
    """Whether a word is an existing file or folder; else it is a text."""
    return len(item) <= LONGEST_PATH and "\0" not in item and os.path.exists(item)


def text_payload(item: Any, name: str) -> bytes:
    """A text as the bytes that identify it.

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
    """The bytes of a file. Raises: DataError with its name."""
    if path.is_dir():
        raise DataError(f"{path} is a folder")
    try:
        return read_file(path)
    except DataError as error:
        raise DataError(f"{path} {error}") from error


def find_files(paths: Iterable[Any], nouns: Nouns = IMAGES) -> list[Any]:
    """Files by name, and the images or clips in folders; what is no path stays unchanged.

    Raises: DataError if a folder holds no image.
    """
    items: list[Any] = []
    for item in paths:
        if not isinstance(item, (str, Path)) or not os.path.isdir(item):
            items.append(item)
            continue
        path, many = Path(item), nouns.many
        files = [str(p) for p in sorted(path.rglob("*")) if _is_media(p, path)]
        if not files:
            raise DataError(f"{item} holds no {many}; name {many}, or a folder that holds some.")
        items += files
    return items


def _is_media(path: Path, root: Path) -> bool:
    is_hidden = any(name.startswith(".") for name in path.relative_to(root).parts)
    # A pipe or a broken link counts too: its answer says why there is none.
    return path.suffix.lower() in MEDIA_SUFFIXES and not is_hidden and not path.is_dir()
