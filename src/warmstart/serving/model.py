"""What a server is handed: the model's work as plain functions, and how much it may take on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart.records.answer import Answer
from warmstart.records.inputs import Kind

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ServedPicture:
    """One image as the network takes it.

    `pixels` (H, W, C) uint8. `box` is the region of the original that they show: left, top,
    right, bottom as shares of its width and height.
    """

    name: str
    pixels: NDArray[np.uint8]
    box: Box


@dataclass(frozen=True, slots=True)
class Unread:
    """One image that could not be read, and why; `is_too_large` where it has too many pixels."""

    name: str
    why: str
    is_too_large: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """What mattered for a label: cover a part of the picture, and see how the answer changes.

    `grid` (rows, columns) holds 0 where covering changed nothing (or helped) and 1 where it
    changed most, less where even that was little. `covered` is the label's probability with
    the part covered that changed it most.
    """

    label: str
    probability: float
    covered: float
    grid: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as the server knows it.

    `decode` turns encoded bytes and a name into a picture, or a text into its tokens; it is called
    from several threads and never raises on bad bytes. `answer` and `explain` are called from one
    thread alone, with at most `ServerLimits.batch` of these; `no_heat` says why there is no
    `explain`.
    `number` is the position of a training example, by its id, `kin` its label by position,
    `thumbnail` a small JPEG of it, None where it is gone.
    """

    title: str
    labels: tuple[str, ...]
    metadata: Mapping[str, Any]
    decode: Callable[[bytes, str], ServedPicture | Unread]
    answer: Callable[[Sequence[ServedPicture]], Sequence[Answer]]
    explain: Callable[[ServedPicture], Heat] | None
    number: Callable[[str], int | None]
    kin: Callable[[int], str]
    thumbnail: Callable[[int], bytes | None]
    no_heat: str = ""
    kind: Kind = "image"  # of the inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """How much a server takes on; beyond it a request is refused, not half done.

    Seconds end in `_s`. `queue` counts images that are inside: being decoded, waiting, in work.
    `held_bytes` is what all bodies together may take of memory.
    """

    body_bytes: int = 32 * 2**20
    held_bytes: int = 256 * 2**20
    images: int = 32  # in one request
    rows: int = 200  # of a table, in one request
    queue: int = 256
    batch: int = 32
    explaining: int = 4  # heat maps asked for at a time: each takes up to a second
    connections: int = 512
    gather_s: float = 0.004  # how long the first image of a batch waits for others
    idle_s: float = 10.0  # between two requests on one connection
    head_s: float = 10.0  # for the head of a request
    body_s: float = 30.0  # for its body
    answer_s: float = 60.0  # for its answer
    stop_s: float = 60.0  # for all that is inside when the server is told to stop
