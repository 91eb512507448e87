"""Which images a step sees, and how: reshuffled passes, random crops, mirrored and coloured."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from warmstart.data.dataset import Collection
from warmstart.errors import DataError
from warmstart.features.extract import Prefetch
from warmstart.features.extraction import load_same
from warmstart.features.machine import n_threads
from warmstart.machine import default_root
from warmstart.modalities.preprocessing import encode
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_STRETCH = math.log(4 / 3)  # aspect ratios from 3:4 to 4:3, as is usual since Szegedy et al. 2015
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # how bright they look (ITU-R BT.601)


@dataclass(frozen=True, slots=True)
class Views:
    """How training images vary.

    `crop`: least share of the area kept (1: all). `flip`: mirrored at random. `colour`: largest
    relative change of brightness, contrast and saturation (0: none). For pictures of sounds,
    `shift`: largest share of the width that they are moved by, in either direction; `mask`:
    largest share of the rows, and of the columns, that a band hides.
    """

    crop: float
    flip: bool
    colour: float = 0.0
    shift: float = 0.0
    mask: float = 0.0

    @property
    def policy(self) -> str:
        """What is done, as a member of a cache key.

        >>> Views(0.35, True, 0.1).policy
        'crop=0.35 flip=1 colour=0.1 bilinear v1'
        """
        crop, flip, colour = float(self.crop), int(self.flip), float(self.colour)
        heard = f" shift={self.shift!r} mask={self.mask!r}" if self.shift or self.mask else ""
        return f"crop={crop!r} flip={flip} colour={colour!r}{heard} bilinear v1"


def draw_batches(
    n: int, batch: int, n_steps: int, rng: np.random.Generator
) -> Iterator[tuple[Rows, Rows]]:
    """Row numbers of each step, and how often each had come before.

    Every image comes once before any comes again. Shapes: rows and visits (batch,).

    >>> [visits.tolist() for _, visits in draw_batches(3, 2, 3, np.random.default_rng(0))]
    [[0, 0], [0, 1], [1, 1]]
    """
    waiting = np.empty(0, np.int64)
    for step in range(n_steps):
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        rows, waiting = waiting[:batch], waiting[batch:]
        yield rows, np.arange(step * batch, (step + 1) * batch) // n


def view_of(image: Pixels, content: str, number: int, views: Views, seed: int) -> Pixels:
    """View `number` of an image: 0 is the image as it is, later ones are random.

    These follow from (seed, content, number) alone, so that a stored view and one made on the
    fly are the same bytes, whoever makes them and in whatever order. `content` is the sha256
    of the image's file in hex. Shapes: (H, W, C) to (H, W, C).

    >>> grey = np.zeros((8, 8, 1), np.uint8)
    >>> view_of(grey, "0a" * 32, 0, Views(0.35, True), seed=0) is grey
    True
    """
    if number == 0:
        return image
    return view(image, views, np.random.default_rng([seed, number, int(content, 16)]))


def view(image: Pixels, views: Views, rng: np.random.Generator) -> Pixels:
    """A random view of an image; the image itself where nothing is to vary.

    A crop keeps `views.crop` to 1 of the area, within the picture, and is resized bilinearly
    with antialiasing (Szegedy et al. 2015, "Going Deeper with Convolutions", §6). Bands that
    are no colours (C other than 1 or 3) keep their values. Shapes: (H, W, C) to (H, W, C).
    """
    if views.crop < 1 or views.flip:
        image = _framed(image, views, rng)
    if views.colour > 0 and image.shape[2] in (1, 3):
        factors = rng.uniform(1 - views.colour, 1 + views.colour, 3).tolist()
        image = _coloured(image, *factors)
    if views.shift or views.mask:
        image = _masked(_shifted(image, views.shift, rng), views.mask, rng)
    return image


def _shifted(image: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """Moved sideways, by at most a share of the width; silence, which is black, comes in."""
    wide = image.shape[1]
    by = round(rng.uniform(-most, most) * wide)
    moved = np.zeros_like(image)
    moved[:, max(by, 0) : wide + min(by, 0)] = image[:, max(-by, 0) : wide + min(-by, 0)]
    return moved


def _masked(image: Pixels, most: float, rng: np.random.Generator) -> Pixels:
    """One band of rows and one of columns at the picture's mean, each up to a share of the side.

    Park et al. 2019, "SpecAugment", §2: frequency and time masking. The picture is changed.
    """
    level = round(float(image.mean(dtype=np.float64)))
    for side, cells in ((0, image), (1, image.swapaxes(0, 1))):
        n = image.shape[side]
        width = round(rng.uniform(0, most) * n)
        begin = int(rng.integers(0, n - width + 1))
        cells[begin : begin + width] = level
    return image


def _framed(image: Pixels, views: Views, rng: np.random.Generator) -> Pixels:
    """Cropped and mirrored at random."""
    # Takes 2 s, and only training needs it.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as transform

    high, wide = image.shape[:2]
    # A view of (H, W, C) memory: channels_last, in which 8-bit resizing is fastest.
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if views.crop < 1:
        top, left, height, width = _box(high, wide, views.crop, rng)
        pixels = transform.resized_crop(
            pixels,
            top,
            left,
            height,
            width,
            [high, wide],
            InterpolationMode.BILINEAR,
            antialias=True,
        )
    if views.flip and rng.random() < 0.5:
        pixels = transform.horizontal_flip(pixels)
    return cast(Pixels, pixels.permute(1, 2, 0).contiguous().numpy())


def _box(high: int, wide: int, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random window in px, within the picture: top, left, height, width.

    Its area is uniform in [least, 1] of the picture's, its shape in the logarithm up to 3:4
    and 4:3 of the picture's: a picture that is not square is not squeezed.
    """
    area = rng.uniform(least, 1)
    stretch = math.exp(rng.uniform(-_STRETCH, _STRETCH) / 2)
    stretch = min(max(stretch, math.sqrt(area)), 1 / math.sqrt(area))  # neither side beyond it
    height = max(1, round(high * math.sqrt(area) / stretch))
    width = max(1, round(wide * math.sqrt(area) * stretch))
    top, left = rng.integers(0, [high - height + 1, wide - width + 1]).tolist()
    return top, left, height, width


def _coloured(image: Pixels, brightness: float, contrast: float, saturation: float) -> Pixels:
    """Brightness, contrast and saturation times a factor each.

    torchvision's three functions of these names in one, which rounds once, to the nearest, and
    takes half the time; nor does it take a mean over threads, whose last bit depends on their
    number.
    """
    values = image.astype(np.float32)
    grey = _grey(values)
    level = brightness * (1 - contrast) * float(grey.mean(dtype=np.float64))
    # b (c (s x + (1 - s) grey) + (1 - c) mean), and half a level to round to the nearest.
    values *= brightness * contrast * saturation
    grey *= brightness * contrast * (1 - saturation)
    values += grey + (level + 0.5)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _grey(values: Floats) -> Floats:
    """How bright each place looks, in an array of its own. Shapes: (H, W, 1 or 3) to (H, W, 1)."""
    if values.shape[2] == 1:
        return values.copy()
    red, green, blue = np.moveaxis(values, 2, 0)
    found: Floats = _RED * red + _GREEN * green + _BLUE * blue
    return found[..., None]


# ---- Images for live training: prepared once, in memory or in a file of their own.


Encoded = NDArray[Any]  # an encoded example
IN_MEMORY = 64_000_000  # bytes of pixels beyond which they lie in a file of their own


class PixelFile:
    """Prepared images in memory, or many of them in a file that nobody else sees.

    Memory holds `IN_MEMORY` bytes at most, however many images there are; the file is gone
    with the object. Rows may be read from several threads at once.
    """

    def __init__(
        self, images: Iterable[Encoded], shape: tuple[int, ...], dtype: str = "uint8"
    ) -> None:
        """Keep the images. Shapes: (n, H, W, C), as many as come and each of that size.

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
        """The images of these rows, in an array of their own. Shapes: (b,) to (b, H, W, C)."""
        if self._file is None:
            return self._pixels[rows]
        found = np.empty((len(rows), *self.shape[1:]), self._dtype)
        size = math.prod(self.shape[1:]) * self._dtype.itemsize
        for place, row in enumerate(rows.tolist()):
            # Not a memory map: its touched pages would count as this process's memory.
            payload = os.pread(self._file, size, row * size)
            found[place] = np.frombuffer(payload, self._dtype).reshape(self.shape[1:])
        return found


def _spill(images: Iterable[Encoded], n_bytes: int) -> int:
    """Write images into a file without a name; returns its descriptor."""
    folder = roomy_folder(n_bytes)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # meets a full disk before anything is decoded
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            for image in images:
                file.write(np.ascontiguousarray(image).data)
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


def roomy_folder(n_bytes: int) -> Path:
    """The folder for temporary files; the cache folder where that one is too small.

    One whose files lie in memory is used only where no other has room.
    """
    folders = (Path(tempfile.gettempdir()), default_root())
    roomy = [folder for folder in folders if _free(folder) >= n_bytes]
    on_disk = [folder for folder in roomy if not _is_in_memory(folder)]
    return (*on_disk, *roomy, *folders)[0]


def _free(folder: Path) -> int:
    """Bytes free; 0 where there is no such folder."""
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _is_in_memory(folder: Path) -> bool:
    """Whether what is written there takes up memory, as far as the system tells."""
    device = folder.stat().st_dev
    mark = f" {os.major(device)}:{os.minor(device)} "
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return False
    return any(mark in mount and " - tmpfs " in mount for mount in mounts)


def read_pixels(collection: Collection, examples: Sequence[Example], prep: Inputs) -> PixelFile:
    """All images, prepared, in the order of the examples. Shapes: (n, H, W, C) uint8.

    Raises: DataError or Vanished where an image can no longer be read; OSError with the
    folder's name where the disk is full.
    """
    shape = (len(examples), *prep.shape)
    return PixelFile(prepared(collection, examples, prep), shape, prep.dtype)


def prepared(
    collection: Collection, examples: Sequence[Example], prep: Inputs
) -> Iterator[Encoded]:
    """Images one by one, (H, W, C) uint8, decoded ahead. Raises: DataError or Vanished."""

    def decode(example: Example) -> Encoded:
        return encode(load_same(collection, example), example.id, prep)

    prefetch = Prefetch(examples, decode, threads=n_threads())
    try:
        for _, image in prefetch:
            if isinstance(image, DataError):
                raise image
            yield image
    finally:
        prefetch.close()
