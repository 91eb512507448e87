"""Objects of other packages, which are not imported: DataFrames, data sets of torchvision."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from warmstart.data.arrays import encode, payload_of_picture
from warmstart.data.dataset import Collection, Listing, Row
from warmstart.data.parsing import Table, lists_of, text_of
from warmstart.data.place import check_name, read_file
from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE
from warmstart.modalities.tensor import TENSOR
from warmstart.nouns import Wording, count
from warmstart.records.inputs import TensorInputs


@runtime_checkable
class Frame(Protocol):
    """A table in memory, as pandas and Polars have it: column names, and columns by name."""

    @property
    def columns(self) -> Iterable[Any]: ...
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
    """X and y of a data set that holds all its images, as CIFAR10 does; None for others."""
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
    """List the samples of a torchvision ImageFolder, or some; ids are relative paths."""
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
        title=f"{IMAGE.nouns.count(len(rows))} in an ImageFolder",
        rows=tuple(rows),
        load=lambda id: read_file(paths[id]),
        wording=Wording.of_classes("the ImageFolder", "its samples"),
    )


# ---- A map-style data set of tensors: any shape, one class number or name each.

N_RANGE = 200  # examples from which the range of values is read


def is_dataset(source: Any) -> bool:
    """Whether a source is a map-style data set, and not a list, array or text."""
    is_indexed = isinstance(source, Sized) and hasattr(source, "__getitem__")
    return is_indexed and not isinstance(source, (str, bytes, Sequence, np.ndarray, dict))


def list_dataset(dataset: Any) -> Listing:
    """List a map-style data set of pairs (tensor or image, class); ids are "0", "1", …

    Each example is fetched when it is needed and not stored.
    """
    name, n = type(dataset).__name__, len(dataset)
    if not n:
        raise DataError(f"the {name} is empty; give one with examples")
    first = _pair(dataset, 0, name)[0]
    modality = IMAGE if isinstance(first, Image) else TENSOR

    def load(id: str) -> bytes:
        values = _pair(dataset, int(id), name)[0]
        if modality is TENSOR:
            return encode(as_values(values, f"example {int(id)} of the {name}"))
        if not isinstance(values, Image):
            raise DataError(f"is a {type(values).__name__} and no image, as example 0 is")
        return payload_of_picture(values)

    if load("0") != load("0"):
        raise DataError(
            f"the {name} returns another {modality.nouns.one} each time for example 0; remove its "
            "random transforms"
        )
    layout, labels = "images", []
    if modality is TENSOR:
        first = as_values(first, f"example 0 of the {name}")
        layout = f"tensors of shape {first.shape}"
    for index in range(n):
        item, label = _pair(dataset, index, name)
        if modality is TENSOR:
            values = as_values(item, f"example {index} of the {name}")
            if values.shape != first.shape or values.dtype != first.dtype:
                raise DataError(
                    f"the {name} returns {values.dtype} of shape {values.shape} for example "
                    f"{index}, and {first.dtype} of {first.shape} for example 0; give all the same"
                )
        labels.append(_label(label, index, name))
    width = len(str(n - 1))
    rows = tuple(Row(id=f"{index:0{width}}", label=label) for index, label in enumerate(labels))
    return Listing(
        name="dataset",
        kind=modality.kind,
        layout=f"{name}: {layout}",
        title=f"{modality.nouns.count(n)} in a {name}",
        rows=rows,
        load=load,
        wording=Wording.of_classes(f"the {name}", "its examples", modality.nouns.one),
    )


def _pair(dataset: Any, index: int, name: str) -> tuple[Any, Any]:
    item = dataset[index]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(
            f"the {name} returns a {type(item).__name__} for example {index}; give pairs "
            "(tensor, class)"
        )
    return item[0], item[1]


def as_values(values: Any, where: str) -> NDArray[Any]:
    """A tensor as a NumPy array: real numbers as float32, whole ones as int64 or uint8.

    Raises: DataError for anything but a tensor of finite numbers.

    >>> as_values(np.ones((2, 3)), "x").dtype
    dtype('float32')
    """
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.dtype.kind not in "buif" or not array.size:
        raise DataError(f"{where} is not a tensor of numbers ({type(values).__name__}); give one")
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


def tensor_inputs(collection: Collection) -> TensorInputs:
    """Shape, type and range of the tensors, from the first examples."""
    ids = [example.id for example in collection.record.examples][:N_RANGE]
    tensors = [np.load(io.BytesIO(collection.load(id)), allow_pickle=False) for id in ids]
    return TensorInputs(
        shape=tensors[0].shape,
        dtype=str(tensors[0].dtype),
        low=float(min(values.min() for values in tensors)),
        high=float(max(values.max() for values in tensors)),
    )
