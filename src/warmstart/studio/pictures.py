"""Pictures on their way into the studio: decoded, made small, or taken from a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from PIL import Image

from warmstart.data.dataset import Columns, Listing, Row
from warmstart.data.labels import TaskOption, labelling_for
from warmstart.data.place import IMAGE_SUFFIXES, SOUND_SUFFIXES
from warmstart.data.read import list_examples
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.modalities.audio import is_sound
from warmstart.modalities.preprocessing import picture_of
from warmstart.run.reopened import SIDE, small_jpeg
from warmstart.studio.board import BoardPicture, filled
from warmstart.studio.project import Arrived, Project
from warmstart.studio.work import ProgressSeen

KINDS_SHOWN = ("image", "audio")
AT_ONCE = 200  # pictures between two lines of progress
KINDS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
}


def see(payload: bytes, name: str) -> ProgressSeen | str:
    """A picture that can be read, or why it cannot."""
    try:
        image = picture_of(payload, name, SIDE)
    except DataError as error:
        return str(error)
    width, height = image.size
    return ProgressSeen(width, height, suffix_of(payload, name), small_jpeg(image))


def small(payload: bytes, name: str) -> bytes:
    """A small JPEG of a picture. Raises: DataError where it cannot be read."""
    return small_jpeg(picture_of(payload, name, SIDE))


def suffix_of(payload: bytes, name: str) -> str:
    """How a file is called that holds such bytes, by what they are, not by its name.

    >>> suffix_of(b"\\x89PNG\\r\\n\\x1a\\n", "a.jpg")
    '.png'
    """
    for kind, suffix in KINDS.items():
        accept = Image.OPEN[kind][1]
        if accept is not None and accept(payload[:16]) is True:
            return suffix
    given = PurePosixPath(name).suffix.lower()
    if is_sound(payload):
        return given if given in SOUND_SUFFIXES else ".wav"
    return given if given in IMAGE_SUFFIXES else ".jpg"


def take_in(
    project: Project, data: str, label: str | None, group: str | None, task: TaskOption = "auto"
) -> Steps[int]:
    """Copy a data set's pictures and labels into an empty project; how many were left out.

    Raises: DataError if it cannot be read, or none of its pictures.
    """
    listing = list_examples(data, Columns(label=label, group=group, task=task), None)
    if listing.kind not in KINDS_SHOWN:
        raise DataError(
            f"{data} holds {listing.wording.noun}s, and the studio shows pictures; use "
            "`warmstart fit`"
        )
    labelling = labelling_for(task, listing)
    listing = labelling.normalise(listing)
    project.set_task(labelling.task, next(iter(listing.outputs), None))
    labels: dict[str, str] = {}
    n_lost, n = 0, len(listing.rows)
    free = set(project.pictures)  # of a taking-in that was cut off
    yield Event(stage="read", kind="begin")
    for begin in range(0, n, AT_ONCE):
        rows = listing.rows[begin : begin + AT_ONCE]
        read = list(_read(listing, rows))
        kept = _kept(project, [one for one, _ in read], free)
        labels |= {one.id: label for one, (_, label) in zip(kept, read, strict=True)}
        n_lost += len(rows) - len(read)
        yield Event(stage="read", kind="step", step=len(labels) + n_lost, of=n)
    if not labels:
        raise DataError(f"{data} holds no picture that can be read.")
    os.sync()
    project.change(lambda board: filled(board, labels))
    yield Event(stage="read", kind="end", step=n, of=n)
    return n_lost


def _kept(project: Project, arrived: Sequence[Arrived], free: set[str]) -> list[BoardPicture]:
    """The pictures of what has arrived: those that are there already, each once, or new ones."""
    found: list[BoardPicture | None] = []
    for one in arrived:
        there = next((known for known in project.known(one.payload) if known.id in free), None)
        if there is not None:
            free.discard(there.id)
        is_same = there is not None and (there.split, there.group) == (one.split, one.group)
        found.append(there if is_same else None)
    new = iter(
        project.keep(
            [one for one, there in zip(arrived, found, strict=True) if there is None], is_copy=True
        )
    )
    return [next(new) if there is None else there for there in found]


def _read(listing: Listing, rows: tuple[Row, ...]) -> Iterator[tuple[Arrived, str]]:
    """Those of some rows whose file can be read, with their labels. They are not decoded yet:
    that takes as long as the look, which names those that it cannot read."""
    for row in rows:
        try:
            payload = listing.load(row.id)
        except (DataError, OSError):
            continue
        name = PurePosixPath(row.id).name
        yield (
            Arrived(
                name=name,
                payload=payload,
                suffix=suffix_of(payload, name),
                width=0,
                height=0,
                split=row.split,
                group=row.group,
                source=row.id,
            ),
            row.label,
        )
