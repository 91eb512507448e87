"""Objects that other packages make: a DataFrame, data sets of torchvision. None is imported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL.Image import Image

from warmstart.data.dataset import Columns, Listing, Row, Wording
from warmstart.data.image_tables import Files, list_table
from warmstart.data.parsing import Table, lists_of, text_of
from warmstart.data.place import check_name, read_file
from warmstart.errors import DataError
from warmstart.nouns import count


@runtime_checkable
class Frame(Protocol):
    """A table in memory, as pandas and Polars make it: column names, and columns by name."""

    @property
    def columns(self) -> Iterable[Any]:
        """The names of the columns."""

    def __getitem__(self, name: Any, /) -> Iterable[Any]: ...

    def __len__(self) -> int: ...


@runtime_checkable
class ImageFolder(Protocol):
    """A folder of class folders, as torchvision lists it: (path, number of its class) pairs."""

    samples: Sequence[tuple[str, int]]
    classes: Sequence[str]


@runtime_checkable
class Subset(Protocol):
    """Some examples of another data set, as torch.utils.data names them."""

    dataset: Any
    indices: Sequence[int]


def list_frame(frame: Frame, files: Files, columns: Columns) -> Listing:
    """List a DataFrame with a column of paths and one of labels, as a table on disk.

    Paths are relative to the working directory.
    Raises: DataError as for any table.
    """
    return list_table(
        frame_table(frame), shown="the DataFrame", name="frame", files=files, columns=columns
    )


def frame_table(frame: Frame) -> Table:
    """A DataFrame as a table. Raises: DataError if it has no rows."""
    names = {str(name): name for name in frame.columns}
    if not len(frame):
        raise DataError("the DataFrame has no rows; give one row per example")
    return Table(
        columns=tuple(names),
        lines=range(len(frame)),
        texts=lambda column: [text_of(item) for item in frame[names[column]]],
        unit="row",
        lists=lambda column: lists_of([*frame[names[column]]]),
    )


def chosen_of(source: Any) -> tuple[Any, list[int] | None]:
    """The data set behind a Subset (of a Subset …), and which of its examples; None: all."""
    chosen: list[int] | None = None
    while isinstance(source, Subset):
        own = [int(index) for index in source.indices]
        chosen = own if chosen is None else [own[index] for index in chosen]
        source = source.dataset
    return source, chosen


def held_images(source: Any) -> tuple[Any, list[Any]] | None:
    """X and y of a data set that holds all its images, as CIFAR10, MNIST and SVHN do.

    Its transforms are not applied. Labels are class names where it knows them. None for any other.
    """
    data = getattr(source, "data", None)
    labels = getattr(source, "targets", None)
    labels = getattr(source, "labels", None) if labels is None else labels
    if data is None or labels is None or not isinstance(source, Sized):
        return None
    is_array = str(getattr(data, "dtype", "")).endswith("uint8") and len(data.shape) in (3, 4)
    is_list = isinstance(data, list) and bool(data) and all(isinstance(x, Image) for x in data)
    if not (is_array or is_list) or not len(data) == len(labels) == len(source):
        return None
    numbers = np.asarray(labels)
    if numbers.ndim != 1:
        return None
    names = getattr(source, "classes", None)
    told = numbers.tolist()
    if isinstance(names, (list, tuple)) and numbers.dtype.kind in "iu":
        told = [str(names[n]).strip() if 0 <= n < len(names) else str(n) for n in told]
    return data, told


def list_image_folder(folder: ImageFolder, chosen: Sequence[int] | None = None) -> Listing:
    """List the samples of a torchvision ImageFolder, or some; its transforms are not applied.

    Ids are paths relative to its root.
    Raises: DataError if a sample has a class that is not named.
    """
    root = Path(getattr(folder, "root", ""))
    paths, rows = {}, []
    samples = folder.samples if chosen is None else [folder.samples[row] for row in chosen]
    for path, index in samples:
        id = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path(path)
        check_name(id.as_posix(), "the ImageFolder")
        if not 0 <= index < len(folder.classes):
            raise DataError(
                f"the ImageFolder has {id} in class {index}, but names "
                f"{count(len(folder.classes), 'class')}, counted from 0; correct its samples"
            )
        paths[id.as_posix()] = path
        rows.append(Row(id=id.as_posix(), label=folder.classes[index].strip()))
    return Listing(
        name=root.name or "images",
        layout="ImageFolder",
        title=f"{count(len(rows), 'image')} in an ImageFolder",
        rows=tuple(rows),
        load=lambda id: read_file(paths[id]),
        wording=Wording(
            source="the ImageFolder",
            before='the ImageFolder: class "',
            after='"',
            remove="its samples",
        ),
    )
