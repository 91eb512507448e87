"""Pictures for the studio: decoded, as thumbnails, or imported from a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from PIL import Image

from warmstart.data.dataset import Columns, Listing, Row
from warmstart.data.labels import normalise, task_for
from warmstart.data.read import list_examples
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.modalities.audio import AUDIO, is_sound
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import MODALITIES, picture_of
from warmstart.records.data import TaskOption
from warmstart.run.reopened import SIDE, small_jpeg
from warmstart.studio.board import BoardPicture, add_pictures
from warmstart.studio.project import NewPicture, Project

CHUNK = 200  # pictures between two lines of progress
SUFFIXES = {  # by Pillow's format
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
}


def decode_picture(payload: bytes, name: str) -> tuple[NewPicture, bytes] | str:
    """A picture to add and its thumbnail, or why it cannot be read."""
    try:
        image = picture_of(payload, name, SIDE)
    except DataError as error:
        return str(error)
    width, height = image.size
    suffix = suffix_of(payload, name)
    picture = NewPicture(name=name, payload=payload, suffix=suffix, width=width, height=height)
    return picture, small_jpeg(image)


def thumbnail(payload: bytes, name: str) -> bytes:
    """A small JPEG of a picture. Raises: DataError where it cannot be read."""
    return small_jpeg(picture_of(payload, name, SIDE))


def suffix_of(payload: bytes, name: str) -> str:
    """The file suffix for these bytes, by their content rather than the name."""
    for format, suffix in SUFFIXES.items():
        accept = Image.OPEN[format][1]
        if accept is not None and accept(payload[:16]) is True:
            return suffix
    suffix = PurePosixPath(name).suffix.lower()
    known, default = (AUDIO.suffixes, ".wav") if is_sound(payload) else (IMAGE.suffixes, ".jpg")
    return suffix if suffix in known else default


def import_data(
    project: Project, data: str, label: str | None, group: str | None, task: TaskOption = "auto"
) -> Steps[int]:
    """Copy a data set's pictures and labels into an empty project; returns how many are unreadable.

    Raises: DataError if it cannot be read, or none of its pictures.
    """
    listing = list_examples(data, Columns(label=label, group=group, task=task), None)
    if not MODALITIES[listing.kind].has_thumbnails:
        raise DataError(
            f"{data} holds {listing.wording.noun}s, and the studio shows pictures; use "
            "`warmstart fit`"
        )
    target = task_for(task, listing)
    listing = normalise(listing, target)
    project.set_task(target.task, next(iter(listing.outputs), None))
    labels: dict[str, str] = {}
    n_unreadable, n = 0, len(listing.rows)
    unused = set(project.pictures)  # of an interrupted import
    yield Event(stage="read", kind="begin")
    for begin in range(0, n, CHUNK):
        rows = listing.rows[begin : begin + CHUNK]
        read = list(_read(listing, rows))
        pictures = _reuse_or_add(project, [one for one, _ in read], unused)
        labels |= {one.id: label for one, (_, label) in zip(pictures, read, strict=True)}
        n_unreadable += len(rows) - len(read)
        yield Event(stage="read", kind="step", step=len(labels) + n_unreadable, of=n)
    if not labels:
        raise DataError(f"{data} holds no picture that can be read.")
    os.sync()
    project.change(lambda board: add_pictures(board, labels))
    yield Event(stage="read", kind="end", step=n, of=n)
    return n_unreadable


def _reuse_or_add(
    project: Project, pictures: Sequence[NewPicture], unused: set[str]
) -> list[BoardPicture]:
    """The project's pictures: existing ones of `unused`, each once, or new ones."""
    existing: list[BoardPicture | None] = []
    for one in pictures:
        same = next((other for other in project.find(one.payload) if other.id in unused), None)
        if same is not None:
            unused.discard(same.id)
        is_same = same is not None and (same.split, same.group) == (one.split, one.group)
        existing.append(same if is_same else None)
    new = [one for one, same in zip(pictures, existing, strict=True) if same is None]
    added = iter(project.add(new, is_copy=True))
    return [next(added) if same is None else same for same in existing]


def _read(listing: Listing, rows: Sequence[Row]) -> Iterator[tuple[NewPicture, str]]:
    """The rows whose file can be read, with their labels.

    Feature extraction decodes them, and names those that it cannot.
    """
    for row in rows:
        try:
            payload = listing.load(row.id)
        except (DataError, OSError):
            continue
        name = PurePosixPath(row.id).name
        picture = NewPicture(
            name=name,
            payload=payload,
            suffix=suffix_of(payload, name),
            split=row.split,
            group=row.group,
            source=row.id,
        )
        yield picture, row.label
