"""Images for live training: decoded once, in memory or in a temporary file."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.data.dataset import Collection
from warmstart.errors import DataError
from warmstart.features.extract import Prefetch
from warmstart.features.extraction import load_unchanged
from warmstart.features.machine import n_threads
from warmstart.machine import default_root
from warmstart.modalities.preprocessing import encode
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs

Encoded = NDArray[Any]  # an encoded example
IN_MEMORY = 64_000_000  # bytes of pixels beyond which they go into a file


class PixelFile:
    """Decoded images in memory, or in a temporary file if there are many.

    Memory holds at most `IN_MEMORY` bytes; the file is removed with the object. Rows may be read
    from several threads at once.
    """

    def __init__(
        self, images: Iterable[Encoded], shape: tuple[int, ...], dtype: str = "uint8"
    ) -> None:
        """Store the images. Shapes: (n, H, W, C), for n images (H, W, C).

        Raises: OSError with the folder's name where the disk is full.
        """
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
    """The folder for temporary files; the cache folder where that one is too small.

    A folder in memory is used only where no other has enough space.
    """
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


def read_pixels(collection: Collection, examples: Sequence[Example], prep: Inputs) -> PixelFile:
    """All images, decoded, in the order of the examples. Shapes: (n, H, W, C) uint8.

    Raises: DataError or MissingExample where an image can no longer be read; OSError with the
    folder's name where the disk is full.
    """
    shape = (len(examples), *prep.shape)
    return PixelFile(decode_images(collection, examples, prep), shape, prep.dtype)


def decode_images(
    collection: Collection, examples: Sequence[Example], prep: Inputs
) -> Iterator[Encoded]:
    """Yield images, (H, W, C) uint8, decoded ahead. Raises: DataError or MissingExample."""

    def decode(example: Example) -> Encoded:
        return encode(load_unchanged(collection, example), example.id, prep)

    prefetch = Prefetch(examples, decode, threads=n_threads())
    try:
        for _, image in prefetch:
            if isinstance(image, DataError):
                raise image
            yield image
    finally:
        prefetch.close()
