"""Images for live training, and a second look: the taps of a network that was trained here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.data.collection import Collection
from warmstart.data.prepare import load_image
from warmstart.errors import DataError
from warmstart.features.engine import make_engine
from warmstart.features.extract import Prefetch
from warmstart.features.key import BATCH
from warmstart.joints.look import load_same, n_threads
from warmstart.joints.rows import Reader, ReadTap
from warmstart.network.parts import Network
from warmstart.network.taps import Tapped
from warmstart.records import Example, Preprocessing, Tap
from warmstart.solve.kernels import Features

Pixels = NDArray[np.uint8]
IN_MEMORY = 512_000_000  # bytes of pixels beyond which they lie in a file of their own


def read_pixels(collection: Collection, examples: Sequence[Example], prep: Preprocessing) -> Pixels:
    """All images, prepared: (n, H, W, C) uint8; many of them in a file that nobody else sees.

    Raises: DataError or Vanished where an image can no longer be read.
    """
    shape = (len(examples), *prep.size, prep.channels)
    if np.prod(shape) > IN_MEMORY:
        with tempfile.TemporaryFile() as file:
            pixels: Pixels = np.memmap(file, np.uint8, "w+", shape=shape)
    else:
        pixels = np.empty(shape, np.uint8)
    for row, image in enumerate(_prepared(collection, examples, prep)):
        pixels[row] = image
    return pixels


def _prepared(
    collection: Collection, examples: Sequence[Example], prep: Preprocessing
) -> Iterator[Pixels]:
    def decode(example: Example) -> Pixels:
        return load_image(load_same(collection, example), example.id, prep)

    prefetch = Prefetch(examples, decode, threads=n_threads())
    try:
        for _, image in prefetch:
            if isinstance(image, DataError):
                raise image
            yield image
    finally:
        prefetch.close()


def second_look(
    network: Network, taps: Sequence[Tap], collection: Collection, prep: Preprocessing
) -> Reader:
    """A reader of a trained network's taps: images are passed when first asked for.

    It replaces the store, which holds what the network was before.
    """
    engine = make_engine("torch", Tapped(network, taps), prep, n_threads())
    seen: dict[str, list[NDArray[np.float32]]] = {}  # by content, one row a tap

    def look(examples: Sequence[Example]) -> None:
        todo = list({e.sha256: e for e in examples if e.sha256 not in seen}.values())
        chunk: list[Pixels] = []
        for number, image in enumerate(_prepared(collection, todo, prep), 1):
            chunk.append(image)
            if len(chunk) == BATCH or number == len(todo):
                rows = engine(np.stack(chunk))
                for place in range(len(chunk)):
                    example = todo[number - len(chunk) + place]
                    seen[example.sha256] = [tap[place] for tap in rows]
                chunk = []

    def reader(examples: Sequence[Example]) -> ReadTap:
        look(examples)

        def read(tap: Tap) -> Features:
            column = list(taps).index(tap)
            return np.stack([seen[example.sha256][column] for example in examples])

        return read

    return reader
