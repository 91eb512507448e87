"""The model behind a server as plain functions, and the server's limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.modalities.image import IMAGE
from warmstart.records.answer import Answer
from warmstart.records.inputs import Kind

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ServedPicture:
    """One input as the network takes it.

    `pixels` (H, W, C) uint8 of an image. `box` is their region of the original: left, top, right,
    bottom as shares of its width and height.
    """

    name: str
    pixels: NDArray[np.uint8]
    box: Box


@dataclass(frozen=True, slots=True)
class UnreadableInput:
    """One input that could not be read, and why; `is_too_large`: it has too many pixels."""

    name: str
    why: str
    is_too_large: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """An occlusion heat map: cover a region of the picture, and see how the answer changes.

    `grid` (rows, columns) is 0 where covering changed nothing (or helped) and 1 where it changed
    most, less where even that was little. `covered` is the label's probability with the most
    important region covered.
    """

    label: str
    probability: float
    covered: float
    grid: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The functions that a server calls.

    `decode` turns bytes and a name into an input of the network; it is called from several threads
    and never raises on bad bytes. `answer` and `explain` are called from one thread, with at most
    `ServerLimits.batch` inputs; `no_heat` says why there is no `explain`. `index_of` is the
    position of a training example by its id, `label_of` its label by position, `thumbnail` a
    small JPEG of it, None where it is missing.
    """

    title: str
    labels: tuple[str, ...]
    metadata: Mapping[str, Any]
    decode: Callable[[bytes, str], ServedPicture | UnreadableInput]
    answer: Callable[[Sequence[ServedPicture]], Sequence[Answer]]
    explain: Callable[[ServedPicture], Heat] | None
    index_of: Callable[[str], int | None]
    label_of: Callable[[int], str]
    thumbnail: Callable[[int], bytes | None]
    no_heat: str = ""
    kind: Kind = IMAGE.kind  # of the inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits beyond which a request is refused.

    Seconds end in `_s`. `queue` counts inputs being decoded, waiting, or in work. `held_bytes`
    bounds the memory of all request bodies together.
    """

    body_bytes: int = 32 * 2**20
    held_bytes: int = 256 * 2**20
    images: int = 32  # in one request
    rows: int = 200  # of a table, in one request
    queue: int = 256
    batch: int = 32
    explaining: int = 4  # heat maps at a time: each takes up to a second
    connections: int = 512
    gather_s: float = 0.004  # how long the first image of a batch waits for others
    idle_s: float = 10.0  # between two requests on one connection
    head_s: float = 10.0  # for the head of a request
    body_s: float = 30.0  # for its body
    answer_s: float = 60.0  # for its answer
    stop_s: float = 60.0  # for pending requests when the server is stopped
