"""Objects that other packages make: a DataFrame, a torchvision ImageFolder. Neither is imported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from warmstart.data.collection import Columns, Listing, Row, Wording, count
from warmstart.data.parsing import Table, lists_of, text_of
from warmstart.data.place import check_name, read_file
from warmstart.data.tables import Files, list_table
from warmstart.errors import DataError


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


def list_image_folder(folder: ImageFolder) -> Listing:
    """List the samples of a torchvision ImageFolder; its transforms are not applied.

    Ids are paths relative to its root.
    Raises: DataError if a sample has a class that is not named.
    """
    root = Path(getattr(folder, "root", ""))
    paths, rows = {}, []
    for path, index in folder.samples:
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
            source="the ImageFolder", before='the ImageFolder: class "', after='"',
            remove="its samples",
        ),
    )  # fmt: skip
