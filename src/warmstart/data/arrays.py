"""Arrays (X, y), or lists of paths and labels, as a listing."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.ImageOps import exif_transpose

from warmstart.data.dataset import Columns, Listing, Row, is_too_many
from warmstart.data.labels import MAX_NUMERIC_CLASSES, LabelCells
from warmstart.data.place import check_name, read_file, suffix
from warmstart.errors import DataError
from warmstart.modalities.image import IMAGE, MAX_BANDS, to_uint8
from warmstart.modalities.text import TEXT, payload_of
from warmstart.nouns import Wording, count
from warmstart.records.data import SEPARATOR

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
    is_text = bool(values) and all(isinstance(value, str) for value in values)
    return is_text and not any(suffix(v) in IMAGE.suffixes or _is_file(v) for v in values[:20])


def _is_file(value: str) -> bool:
    return len(value) < 256 and "\0" not in value and os.path.exists(value)


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
    """One image (H, W) or (H, W, C), of any number type, as the bytes of a .npy file.

    >>> np.load(io.BytesIO(encode(np.ones((1, 2), np.uint8)))).tolist()
    [[1, 1]]
    """
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
    return np.moveaxis(values, 1, 3) if values.ndim == 4 and _is_first(values.shape) else values


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
    if values.ndim == 4 and _is_either(values.shape):
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


def _is_first(shape: tuple[int, ...]) -> bool:
    """Whether an array of four axes has its channels before its rows."""
    if shape[0] and 0 in shape:
        return False
    is_picture = shape[1] in (1, 3) and shape[3] not in (1, 3, 4)
    return is_picture or shape[1] <= MAX_BANDS < min(shape[2:])


def _is_either(shape: tuple[int, ...]) -> bool:
    """Whether the channels may be the first axis or the last, the images being slits."""
    return shape[1] in (1, 3) and shape[3] in (1, 3) and shape[2] > MAX_BANDS
