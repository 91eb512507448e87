"""Data sets that come along: `sample:digits`."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from warmstart.data.collection import Listing, Row, Wording, count
from warmstart.data.named import PREFIX
from warmstart.errors import DataError

NAMES = ("digits",)


def list_sample(source: str) -> Listing:
    """List a sample by its name, `sample:digits`.

    Raises: DataError for any other name, saying which there are.
    """
    name = source.removeprefix(PREFIX)
    if name not in NAMES:
        offered = ", ".join(PREFIX + known for known in NAMES)
        raise DataError(
            f"there is no {PREFIX}{name}; offered is {offered} (others would need a download: "
            "save one as a folder of class folders and name that folder)"
        )
    return _digits()


def _digits() -> Listing:
    from sklearn.datasets import load_digits  # here: it takes a second to import

    scans = load_digits()
    payloads, rows = {}, []
    for index, (scan, target) in enumerate(zip(scans.images, scans.target, strict=True)):
        id = f"{target}/{index:04}.png"
        payloads[id] = _png(np.rint(scan * 255 / 16).astype(np.uint8))  # scans hold 0..16
        rows.append(Row(id=id, label=str(target)))
    return Listing(
        name="digits",
        layout="sample",
        title=f"{count(len(rows), 'scan')} of handwritten digits (scikit-learn)",
        rows=tuple(rows),
        load=payloads.__getitem__,
        wording=Wording(source="sample:digits", before="sample:digits/", remove="it"),
    )


def _png(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
