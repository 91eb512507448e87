"""Arrays (X, y), or lists of paths and labels, as a listing."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.ImageOps import exif_transpose

from warmstart.data.dataset import Collection, Columns, Listing, Row, is_too_many
from warmstart.data.labels import MAX_NUMERIC_CLASSES, LabelCells
from warmstart.data.parsing import Table, lists_of, text_of
from warmstart.data.place import check_name, read_file, suffix
from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE, MAX_BANDS, to_uint8
from warmstart.modalities.tensor import TENSOR
from warmstart.modalities.text import TEXT, payload_of
from warmstart.nouns import Wording, count
from warmstart.records.data import SEPARATOR
from warmstart.records.inputs import TensorInputs

# ---- y: class labels (N,), numbers (N,), several labels as a matrix or as lists.


def read_labels(labels: Any) -> LabelCells:
    """y as labels: texts or numbers (N,), 0 and 1 (N, K), or N lists of names."""
    if (lists := _lists(labels)) is not None:
        return LabelCells([_join(names) for names in lists], "sets")
    values = np.asarray(labels)
    is_indicator = values.dtype.kind in "buif" and bool(np.isin(values, (0, 1)).all())
    if values.ndim == 2 and values.shape[1] > 1 and is_indicator:
        names = tuple(map(str, getattr(labels, "columns", range(values.shape[1]))))
        rows = [[names[k] for k in np.flatnonzero(row)] for row in values]
        texts = [_join(row) for row in rows]
        if (values.sum(axis=1) == 1).all():  # a one-hot class
            why = f"y has shape {values.shape} and one 1 a row; give y.argmax(axis=1), one label"
            return LabelCells(texts, "texts", names, f'{why} per row, or task="multilabel"')
        return LabelCells(texts, "sets", names)
    if values.ndim != 1:
        raise DataError(
            f"y has shape {values.shape}; give one label per row, or 0 and 1 (N, K) for several"
        )
    texts, problem = [], ""
    for index, value in enumerate(values.tolist()):
        text, why = _label(value, index)
        texts.append(text)
        problem = problem or why
    fractions = {
        text
        for text, value in zip(texts, values.tolist(), strict=True)
        if isinstance(value, float) and np.isfinite(value) and not value.is_integer()
    }
    is_measured = len(fractions) > min(MAX_NUMERIC_CLASSES, max(len(texts) // 2, 2))
    return LabelCells(texts, "numbers" if is_measured else "texts", (), problem)


def _label(value: object, index: int) -> tuple[str, str]:
    """A label as text, and why it is not a class."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float):
        why = f"y[{index}] is {value}; class labels are texts or whole numbers"
        return repr(value), f'{why} (numbers: task="regress")'
    name = str(value).strip() if isinstance(value, (str, int)) else ""
    if not name:
        raise DataError(
            f"y[{index}] is {value!r}, which is not a label; fill it in or drop the row"
        )
    return name, ""


def _lists(labels: Any) -> list[list[str]] | None:
    """N lists of names; None for anything else."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind != "O":
        return None
    if not isinstance(labels, (list, tuple, np.ndarray)) or not len(labels):
        return None
    if not all(isinstance(row, (list, tuple, set, frozenset)) for row in labels):
        return None
    if all(isinstance(name, (int, float, np.number)) for row in labels for name in row):
        sizes = {len(row) for row in labels}
        if len(sizes) == 1 and sizes != {0}:
            return None  # rows of a matrix
    return [[str(name).strip() for name in row] for row in labels]


def _join(names: Sequence[str]) -> str:
    bad = next((name for name in names if SEPARATOR in name or not name), None)
    if bad is not None:
        raise DataError(f"y has the label {bad!r}; labels are texts without {SEPARATOR!r}")
    return SEPARATOR.join(sorted(set(names)))


def list_arrays(images: Any, labels: Any) -> Listing:
    """List images (N, H, W) or (N, H, W, C) of uint8 or float, or N paths, with N labels.

    (N, C, H, W) is transposed if the channels are clearly first; N PIL images may differ in
    size. Pixels become uint8 by one rule over the whole array; bands (C of 2 or 5 to 13) stay
    unchanged. An array that needs no conversion is not copied. Ids are "0", "1", … or the paths.
    """
    y = read_labels(labels)
    paths = _paths(images)
    if paths is not None:
        return _listing(paths, y, "list of paths", read_file)
    is_list = isinstance(images, (list, tuple)) and len(images) > 0
    if is_list and all(isinstance(image, Image) for image in images):
        pictures = dict(zip(map(str, range(len(images))), images, strict=True))
        return _listing(
            [*pictures], y, "list of images", lambda id: payload_of_picture(pictures[id])
        )
    values = _pixels(images)
    pixels = to_uint8(values, "X") if values.shape[3:] in ((), (1,), (3,), (4,)) else values
    ids = [str(index) for index in range(len(pixels))]
    return _listing(ids, y, f"array {pixels.shape}", lambda id: encode(pixels[int(id)]))


def are_texts(items: Any, columns: Columns) -> bool:
    """Whether X holds texts: strings, none of which is a file path."""
    values = items.tolist() if isinstance(items, np.ndarray) and items.dtype.kind in "OU" else items
    if columns.kind not in ("auto", TEXT.kind) or not isinstance(values, (list, tuple)):
        return False
    if not values or not all(isinstance(value, str) for value in values):
        return False
    are_files = (len(v) < 256 and "\0" not in v and os.path.exists(v) for v in values[:20])
    return not any(are_files) and not any(suffix(v) in IMAGE.suffixes for v in values[:20])


def list_text_pairs(texts: Any, labels: Any) -> Listing:
    """List N texts with N labels; ids are "0", "1", …"""
    payloads = []
    for index, value in enumerate(texts):
        if not isinstance(value, str):
            raise DataError(f"X[{index}] is a {type(value).__name__}, not a text; give one per row")
        payload = payload_of(value)
        if not payload:
            raise DataError(f"X[{index}] is an empty text; fill it in or drop the row")
        payloads.append(payload)
    ids = [str(index) for index in range(len(payloads))]
    listing = _listing(ids, read_labels(labels), "list of texts", lambda id: payloads[int(id)])
    return replace(
        listing,
        kind=TEXT.kind,
        title=f"{TEXT.nouns.count(len(ids))} in a list",
        wording=replace(listing.wording, noun=TEXT.nouns.one),
    )


def encode(pixels: NDArray[np.generic]) -> bytes:
    """One image (H, W) or (H, W, C), of any number type, as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
    return buffer.getvalue()


def _listing(ids: Sequence[str], y: LabelCells, layout: str, load: Any) -> Listing:
    if len(ids) != len(y.texts):
        raise DataError(
            f"X has {count(len(ids), 'row')}, y has {len(y.texts):,}; give one label each"
        )
    return Listing(
        name="arrays",
        layout=layout,
        title=f"{IMAGE.nouns.count(len(ids))} in arrays",
        rows=tuple(Row(id=id, label=label) for id, label in zip(ids, y.texts, strict=True)),
        load=load,
        wording=Wording.of_classes("y", "its row"),
        label_problem=y.problem,
        form=y.form,
        outputs=y.outputs,
    )


def _paths(images: Any) -> list[str] | None:
    """The paths, or None if `images` is not a sequence of paths."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":
        images = images.tolist()
    if not isinstance(images, (list, tuple)) or not images:
        return None
    if not all(isinstance(image, (str, os.PathLike)) for image in images):
        return None
    paths = [Path(image).as_posix() for image in images]
    unique: set[str] = set()
    for path in paths:
        check_name(path, "X")
        if path in unique:
            raise DataError(f"X names {path} twice; keep one row per file")
        unique.add(path)
    missing = [path for path in paths if not os.path.isfile(path)]
    if is_too_many(len(missing), len(paths)):  # fewer are left out when they are read
        raise DataError(
            f"X: {len(missing):,} of {count(len(paths), 'file')} not found "
            f"(first: {missing[0]}); correct the paths"
        )
    return paths


def payload_of_picture(picture: Image) -> bytes:
    """A PIL image as bytes of a file. Raises: DataError if Pillow cannot read it any more."""
    buffer = io.BytesIO()
    try:
        upright = exif_transpose(picture)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
        upright.save(buffer, "TIFF")  # takes every mode
    except Exception as error:  # Pillow reads the file only now, and raises a dozen types
        raise DataError(f"cannot be read: {error}") from error
    return buffer.getvalue()


def channels_last(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Images (N, C, H, W) as (N, H, W, C), if C is clearly first; others unchanged.

    >>> channels_last(np.zeros((9, 3, 32, 32))).shape, channels_last(np.zeros((9, 8, 8, 3))).shape
    ((9, 32, 32, 3), (9, 8, 8, 3))
    """
    shape = values.shape
    if values.ndim != 4 or (shape[0] and 0 in shape):
        return values
    is_picture = shape[1] in (1, 3) and shape[3] not in (1, 3, 4)
    is_first = is_picture or shape[1] <= MAX_BANDS < min(shape[2:])
    return np.moveaxis(values, 1, 3) if is_first else values


def _pixels(images: Any) -> NDArray[np.generic]:
    if hasattr(images, "detach"):  # a tensor of torch
        images = images.detach().cpu()
    try:
        values: NDArray[np.generic] = np.asarray(images)
    except ValueError:
        raise DataError(
            "X holds images of different shapes; resize them to one, or give file paths"
        ) from None
    if values.dtype.kind == "O":
        raise DataError("X holds objects, not pixels; give an array (N, H, W, C) or file paths")
    shape = values.shape
    is_slit = values.ndim == 4 and shape[2] > MAX_BANDS
    if is_slit and shape[1] in (1, 3) and shape[3] in (1, 3):
        raise DataError(
            f"X has shape {values.shape}, whose channels may be first or last; pad the images to "
            "4 pixels or more a side, and give (N, H, W, C)"
        )
    values = channels_last(values)
    if values.ndim not in (3, 4) or (values.ndim == 4 and values.shape[3] > MAX_BANDS):
        raise DataError(
            f"X has shape {values.shape}; images are (N, H, W), or (N, H, W, C) of 1 to "
            f"{MAX_BANDS} channels"
        )
    if values.dtype.kind not in "buif":
        raise DataError(f"X holds {values.dtype} values; give uint8, 0 to 255")
    if 0 in values.shape:
        raise DataError(f"X has shape {values.shape}, which is empty; give images")
    return values


# ---- Objects of other packages, which are not imported: DataFrames, data sets of torchvision.


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


def list_in_memory(source: Any, indices: Sequence[int] | None = None) -> Listing | None:
    """List a data set that holds all its images, as CIFAR10 does, or some; None for others.

    Ids are the numbers of the images there.
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
    classes = np.asarray(labels)
    if classes.ndim != 1:
        return None
    names, y = getattr(source, "classes", None), classes.tolist()
    if isinstance(names, (list, tuple)) and classes.dtype.kind in "iu":
        y = [str(names[n]).strip() if 0 <= n < len(names) else str(n) for n in y]
    if indices is not None:
        data = [data[n] for n in indices] if is_list else data[indices]
        y = [y[n] for n in indices]
    listing, name = list_arrays(data, y), type(source).__name__
    return replace(
        listing,
        name=name.lower(),
        layout=f"{name}: {listing.layout}",
        title=f"{IMAGE.nouns.count(len(y))} in a {name}",
        wording=Wording.of_classes(f"the {name}", "its examples"),
    )


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
        labels.append(_class_of(label, index, name))
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
    """
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.dtype.kind not in "buif" or not array.size:
        raise DataError(f"{where} is not a tensor of numbers ({type(values).__name__}); give one")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where} holds NaN or infinite numbers; replace them")
    kinds = {"f": "float32", "b": "uint8", "u": "uint8" if array.dtype == np.uint8 else "int64"}
    return np.ascontiguousarray(array.astype(kinds.get(array.dtype.kind, "int64")))


def _class_of(value: Any, index: int, name: str) -> str:
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
