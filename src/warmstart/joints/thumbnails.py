"""Examples as small pictures for the report, read through the safe decoder."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from PIL import Image

from warmstart.data.collection import Load
from warmstart.data.prepare import as_picture, has_bands, open_image, picture_of
from warmstart.errors import DataError
from warmstart.records import DataRecord, Inputs, Preprocessing

SIDE = 160  # px of the longer side
SIGNS = 240  # of a text that is shown
TINY = 48  # px below which a picture is kept as it is, without loss
QUALITY = 72
WORKERS = 4


def thumbnails(
    ids: Sequence[str], record: DataRecord, load: Load, preprocessing: Inputs | None
) -> dict[str, str]:
    """Small pictures as data URIs, by id; `load` gives the bytes of an example.

    Left out is what the record does not list, has another content than the recorded one, or
    cannot be decoded. `preprocessing` tells how bands become a picture.
    """
    digests = {example.id: example.sha256 for example in record.examples}

    def one(id: str) -> str | None:
        try:
            payload = load(id)
            if sha256(payload).hexdigest() != digests[id]:
                return None
            return data_uri(_opened(payload, id, preprocessing))
        except (DataError, OSError, KeyError):
            return None

    known = [id for id in ids if id in digests]
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        made = pool.map(one, known)
        return {id: uri for id, uri in zip(known, made, strict=True) if uri is not None}


def excerpts(ids: Sequence[str], record: DataRecord, load: Load) -> dict[str, str]:
    """Texts, or the first `SIGNS` signs of long ones, by id; left out is what has changed."""
    digests, found = {example.id: example.sha256 for example in record.examples}, {}
    for id in ids:
        try:
            payload = load(id)
        except (DataError, OSError, KeyError):
            continue
        if sha256(payload).hexdigest() == digests.get(id):
            text = payload.decode("utf-8", "replace")
            found[id] = text if len(text) <= SIGNS else text[:SIGNS].rstrip() + " …"
    return found


def data_uri(image: Image.Image) -> str:
    """A picture made small, as text that stands in a page; tiny ones lose nothing.

    >>> data_uri(Image.new("L", (8, 8)))[:22]
    'data:image/png;base64,'
    """
    kind, options = ("JPEG", {"quality": QUALITY, "optimize": True})
    if max(image.size) <= TINY:
        kind, options = "PNG", {"optimize": True}
    elif max(image.size) > SIDE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _opened(payload: bytes, id: str, preprocessing: Inputs | None) -> Image.Image:
    """Raises: DataError if it is no usable image."""
    if isinstance(preprocessing, Preprocessing) and (
        preprocessing.sound is not None or has_bands(preprocessing)
    ):
        return as_picture(open_image(payload, id, preprocessing))
    return picture_of(payload, id, SIDE)
