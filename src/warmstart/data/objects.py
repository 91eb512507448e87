"""Objects of other packages, which are not imported: DataFrames, data sets of torchvision."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from warmstart.data.arrays import payload_of_picture
from warmstart.data.dataset import Collection, Listing, Row, Wording
from warmstart.data.parsing import Table, lists_of, text_of
from warmstart.data.place import check_name, read_file
from warmstart.errors import DataError
from warmstart.nouns import count
from warmstart.records.inputs import TensorInputs


@runtime_checkable
class Frame(Protocol):
    """A table in memory, as pandas and Polars have it: column names, and columns by name."""

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


def resolve_subset(source: Any) -> tuple[Any, list[int] | None]:
    """The data set behind a Subset (of a Subset …), and its indices there; None: all."""
    indices: list[int] | None = None
    while isinstance(source, Subset):
        outer = [int(index) for index in source.indices]
        indices = outer if indices is None else [outer[index] for index in indices]
        source = source.dataset
    return source, indices


def images_in_memory(source: Any) -> tuple[Any, list[Any]] | None:
    """X and y of a data set that holds all its images, as CIFAR10, MNIST and SVHN do.

    Its transforms are not applied. Labels are class names if it has them. None for any other.
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
    values = numbers.tolist()
    if isinstance(names, (list, tuple)) and numbers.dtype.kind in "iu":
        values = [str(names[n]).strip() if 0 <= n < len(names) else str(n) for n in values]
    return data, values


def list_image_folder(folder: ImageFolder, indices: Sequence[int] | None = None) -> Listing:
    """List the samples of a torchvision ImageFolder, or some; its transforms are not applied.

    Ids are paths relative to its root.
    Raises: DataError if a sample has a class that is not named.
    """
    root = Path(getattr(folder, "root", ""))
    paths, rows = {}, []
    samples = folder.samples if indices is None else [folder.samples[row] for row in indices]
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
        wording=Wording.of_classes("the ImageFolder", "its samples"),
    )


# ---- A map-style data set of tensors: any shape, one class number or name each.

N_RANGE = 200  # examples from which the range of values is read


@runtime_checkable
class MapDataset(Protocol):
    """A map-style `torch.utils.data.Dataset`: it has a length and items by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def is_dataset(source: Any) -> bool:
    """Whether a source is a map-style data set, and not a list, array or text."""
    plain = (str, bytes, Sequence, np.ndarray, dict)
    return isinstance(source, MapDataset) and not isinstance(source, plain)


def list_dataset(dataset: Any) -> Listing:
    """List the examples of a data set of pairs (tensor, class); ids are "0", "1", …

    Each is fetched when it is needed and not stored; its bytes are what `np.save` writes.
    Raises: DataError if it returns something else, other tensors each time, or several shapes.
    """
    name = type(dataset).__name__
    n = len(dataset)
    if not n:
        raise DataError(f"the {name} is empty; give one with examples")
    if isinstance(_pair(dataset, 0, name)[0], Image):
        return _list_pictures(dataset, name)
    first, _ = _tensor_pair(dataset, 0, name)
    if _bytes(first) != _bytes(_tensor_pair(dataset, 0, name)[0]):
        raise DataError(
            f"the {name} returns another tensor each time for example 0; remove its random "
            "transforms"
        )
    width, labels = len(str(n - 1)), []
    for index in range(n):
        values, label = _tensor_pair(dataset, index, name)
        if values.shape != first.shape or values.dtype != first.dtype:
            raise DataError(
                f"the {name} returns {values.dtype} of shape {values.shape} for example {index}, "
                f"and {first.dtype} of {first.shape} for example 0; give all the same"
            )
        labels.append(label)
    rows = tuple(Row(id=f"{index:0{width}}", label=label) for index, label in enumerate(labels))
    return Listing(
        name="dataset",
        kind="tensor",
        layout=f"{name}: tensors of shape {first.shape}",
        title=f"{count(n, 'tensor')} in a {name}",
        rows=rows,
        load=lambda id: _bytes(_tensor_pair(dataset, int(id), name)[0]),
        wording=Wording.of_classes(f"the {name}", "its examples", "tensor"),
    )


def _tensor_pair(dataset: Any, index: int, name: str) -> tuple[NDArray[Any], str]:
    """The tensor and the class of one example. Raises: DataError for anything else."""
    item = _pair(dataset, index, name)
    return as_values(item[0], f"example {index} of the {name}"), _label(item[1], index, name)


def _pair(dataset: Any, index: int, name: str) -> tuple[Any, Any]:
    item = dataset[index]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(
            f"the {name} returns a {type(item).__name__} for example {index}; give pairs "
            "(tensor, class)"
        )
    return item[0], item[1]


def _list_pictures(dataset: Any, name: str) -> Listing:
    """List a data set of pairs (PIL image, class). Raises: as `list_dataset`."""

    def load(id: str) -> bytes:
        picture = _pair(dataset, int(id), name)[0]
        if not isinstance(picture, Image):
            raise DataError(f"is a {type(picture).__name__} and no image, as example 0 is")
        return payload_of_picture(picture)

    if load("0") != load("0"):
        raise DataError(
            f"the {name} returns another image each time for example 0; remove its random "
            "transforms"
        )
    labels = [_label(_pair(dataset, n, name)[1], n, name) for n in range(len(dataset))]
    width = len(str(len(labels) - 1))
    return Listing(
        name="dataset",
        layout=f"{name}: images",
        title=f"{count(len(labels), 'image')} in a {name}",
        rows=tuple(Row(id=f"{n:0{width}}", label=label) for n, label in enumerate(labels)),
        load=load,
        wording=Wording.of_classes(f"the {name}", "its examples"),
    )


def as_values(values: Any, where: str) -> NDArray[Any]:
    """A tensor as a NumPy array: real numbers as float32, whole ones as int64 or uint8.

    Raises: DataError for anything but a tensor of finite numbers.

    >>> as_values(np.ones((2, 3)), "x").dtype
    dtype('float32')
    """
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.dtype.kind not in "buif" or not array.size:
        raise DataError(f"{where} is no tensor of numbers ({type(values).__name__}); give one")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where} holds NaN or infinite numbers; replace them")
    kinds = {"f": "float32", "b": "uint8", "u": "uint8" if array.dtype == np.uint8 else "int64"}
    return np.ascontiguousarray(array.astype(kinds.get(array.dtype.kind, "int64")))


def _label(value: Any, index: int, name: str) -> str:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    if isinstance(value, (bool, int, np.integer)):
        return str(int(value))
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise DataError(
        f"the {name} returns {value!r} as the class of example {index}; give a whole number or "
        "a name"
    )


def _bytes(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def tensor_inputs(collection: Collection) -> TensorInputs:
    """Shape, type and range of the tensors, from the first examples."""
    ids = [example.id for example in collection.record.examples][:N_RANGE]
    tensors = [
        np.lib.format.read_array(io.BytesIO(collection.load(id)), allow_pickle=False) for id in ids
    ]
    return TensorInputs(
        shape=tensors[0].shape,
        dtype=str(tensors[0].dtype),
        low=float(min(values.min() for values in tensors)),
        high=float(max(values.max() for values in tensors)),
    )
