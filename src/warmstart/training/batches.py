"""Batches of a training: images, decoded once, or cached outputs of the frozen blocks."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warmstart.data.dataset import Collection
from warmstart.errors import DataError
from warmstart.features.batches import to_tensor
from warmstart.features.cache import CacheFile
from warmstart.features.extraction import Prefetch, load_unchanged
from warmstart.features.machine import n_threads
from warmstart.machine import default_root
from warmstart.modalities.registry import modality_of
from warmstart.network.cut import cached_layers
from warmstart.network.text_encoders import longest
from warmstart.planning.schedule import Schedule
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs as Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.solve.ridge import Rows
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.training.augmentations import Augmentations, augmentations_of, numbered_augmentation
from warmstart.training.checkpoint import Checkpoints, NoCheckpoints

Inputs = tuple[Tensor, ...]
Encoded = NDArray[Any]  # an encoded example
IN_MEMORY = 64_000_000  # bytes of pixels beyond which they go into a file


class PixelFile:
    """Decoded images (n, H, W, C) in memory, or in a temporary file beyond `IN_MEMORY` bytes.

    The file is removed with the object; rows may be read from several threads at once.
    Raises: OSError with the folder's name where the disk is full.
    """

    def __init__(
        self, images: Iterable[Encoded], shape: tuple[int, ...], dtype: str = "uint8"
    ) -> None:
        self.shape, self._dtype = shape, np.dtype(dtype)
        n_bytes = math.prod(shape) * self._dtype.itemsize
        self._file: int | None = None
        if n_bytes > IN_MEMORY:
            self._file = _spill(images, n_bytes)
            weakref.finalize(self, os.close, self._file)
        else:
            self._pixels: Encoded = np.empty(shape, dtype)
            for row, image in enumerate(images):
                self._pixels[row] = image

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, rows: NDArray[np.int64]) -> Encoded:
        """The images of these rows, in a new array. Shapes: (b,) to (b, H, W, C)."""
        if self._file is None:
            return self._pixels[rows]
        images = np.empty((len(rows), *self.shape[1:]), self._dtype)
        size = math.prod(self.shape[1:]) * self._dtype.itemsize
        for place, row in enumerate(rows.tolist()):
            # Not a memory map: its touched pages would count as this process's memory.
            payload = os.pread(self._file, size, row * size)
            images[place] = np.frombuffer(payload, self._dtype).reshape(self.shape[1:])
        return images


def _spill(images: Iterable[Encoded], n_bytes: int) -> int:
    """Write images into an unnamed file; returns its descriptor."""
    folder = folder_with_space(n_bytes)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # fails on a full disk before anything is decoded
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            for image in images:
                file.write(np.ascontiguousarray(image).data)
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


def folder_with_space(n_bytes: int) -> Path:
    """The folder for temporary files, or the cache folder if it has more space or is on disk."""
    folders = (Path(tempfile.gettempdir()), default_root())
    large = [folder for folder in folders if _free_bytes(folder) >= n_bytes]
    on_disk = [folder for folder in large if not _is_in_memory(folder)]
    return (*on_disk, *large, *folders)[0]


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _is_in_memory(folder: Path) -> bool:
    """Whether files there take up memory (tmpfs), as far as the system tells."""
    device = folder.stat().st_dev
    number = f" {os.major(device)}:{os.minor(device)} "
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return False
    return any(number in mount and " - tmpfs " in mount for mount in mounts)


def read_pixels(
    collection: Collection, examples: Sequence[Example], prep: Preprocessing
) -> PixelFile:
    """All images, decoded, in the order of the examples. Shapes: (n, H, W, C) uint8.

    Raises: DataError or MissingExample for an unreadable image; OSError where the disk is full.
    """
    shape = (len(examples), *prep.shape)
    return PixelFile(decode_images(collection, examples, prep), shape, prep.dtype)


def decode_images(
    collection: Collection, examples: Sequence[Example], prep: Preprocessing
) -> Iterator[Encoded]:
    """Yield images, (H, W, C) uint8, decoded ahead. Raises: DataError or MissingExample."""

    def decode(example: Example) -> Encoded:
        return modality_of(prep).encode(load_unchanged(collection, example), example.id, prep)

    prefetch = Prefetch(examples, decode, threads=n_threads())
    try:
        for _, image in prefetch:
            if isinstance(image, DataError):
                raise image
            yield image
    finally:
        prefetch.close()


class BatchSource(Protocol):
    """Inputs of the blocks above the cut, for chosen rows."""

    @property
    def cut(self) -> int:
        """How many blocks have been run already."""
        ...

    def batch(self, rows: Rows, numbers: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Augmentation number `numbers` of each row, (b,); 0 is the image without augmentation.

        Shapes: main (b, …), then one (b, d) for each of the head's layers below the cut.
        """
        ...


@dataclass(frozen=True, slots=True)
class LiveBatches:
    """Inputs of the whole network: images, (b, C, H, W), or what `to_tensor` returns."""

    pixels: PixelFile
    contents: tuple[str, ...]  # sha256 of each row's bytes
    augmentations: Augmentations
    seed: int
    prep: Preprocessing
    cut: int = 0

    def batch(self, rows: Rows, numbers: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        images = self.pixels.rows(rows)
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            if number:
                images[place] = numbered_augmentation(
                    images[place], self.contents[row], int(number), self.augmentations, self.seed
                )
        return (to_tensor(images, self.prep),)


def live_batches(
    collection: Collection, examples: Sequence[Example], prep: Preprocessing, schedule: Schedule
) -> LiveBatches:
    """Batches of images with the augmentations of a plan. Raises: as `read_pixels`."""
    pixels = read_pixels(collection, examples, prep)
    contents = tuple(example.sha256 for example in examples)
    return LiveBatches(pixels, contents, augmentations_of(schedule), schedule.seed, prep)


@dataclass(frozen=True, slots=True)
class CachedBatches:
    """Cached outputs of the frozen blocks, one row per image and augmentation.

    A row of `cache_files[number]` holds the output of block `cut`, of `shape`, then `columns`;
    `recompute` returns the row of a number and a content where that is damaged.
    """

    cache_files: tuple[CacheFile, ...]
    contents: tuple[str, ...]
    cut: int
    shape: tuple[int, ...]
    columns: dict[FeatureLayer, slice]
    recompute: Callable[[int, str], NDArray[np.floating]]
    is_ragged: bool = False  # padded rows of tokens: cut to the longest of a batch

    def batch(self, rows: Rows, numbers: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        joined = np.empty((0, 0), np.float32)
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            values = self._fetch(int(number), [self.contents[row] for row in rows[places]])
            if not joined.size:
                joined = np.empty((len(rows), values.shape[1]), np.float32)
            joined[places] = values
        tensors = torch.from_numpy(joined)
        main = tensors[:, : math.prod(self.shape)].reshape(len(rows), *self.shape)
        if main.ndim == 4:
            main = main.contiguous(memory_format=torch.channels_last)
        if self.is_ragged:
            main = main[:, : longest(main)].contiguous()
        layers = cached_layers(feature_layers, self.cut)
        return (main, *(tensors[:, self.columns[layer]].contiguous() for layer in layers))

    def _fetch(self, number: int, contents: Sequence[str]) -> NDArray[np.floating]:
        """Rows from disk; damaged ones are computed again."""
        try:
            return self.cache_files[number].fetch(contents)
        except KeyError:
            if len(contents) == 1:
                return self.recompute(number, contents[0])[None]
            return np.concatenate([self._fetch(number, [content]) for content in contents])


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """What all trainings of a run share. Shapes: labels and groups (n,) over the training rows."""

    source: BatchSource
    labels: Truth
    groups: NDArray[np.int64]
    digests: Mapping[str, str]  # of the base model's tensors
    checkpoints: Checkpoints | NoCheckpoints
    steps: tuple[int, ...] = ()  # updates of each training, where there are several
    target: Target = CLASSIFICATION

    def targets(self, rows: Rows) -> Tensor:
        """Class numbers (b,), or the truth of another task's loss."""
        return torch.from_numpy(self.labels[rows])

    def plain(self, rows: Rows, feature_layers: Sequence[FeatureLayer]) -> Inputs:
        """Inputs without augmentation."""
        return self.source.batch(rows, np.zeros(len(rows), np.int64), feature_layers)
