"""What `predict` is given, as a list of items, and whether it was a single one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from warmstart.data.objects import Frame
from warmstart.data.place import MEDIA_SUFFIXES, TABLE_SUFFIXES, suffix
from warmstart.errors import DataError
from warmstart.records import Inputs, Preprocessing, TableInputs, TensorInputs, TextInputs, kind_of
from warmstart.verbs.rows import opened
from warmstart.verbs.texts import GivenText, find_texts, is_path
from warmstart.words import IMAGES, Nouns, nouns_of

Items = Sequence[Any]
PICTURE_CHANNELS = (1, 3, 4)  # grey, colour, colour with alpha: a network for pictures takes all
SINGLE = (str, bytes, Path, Image.Image, Mapping, GivenText)


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
