"""Small images of bands as .npy and as plain TIFF files, written by hand."""

from __future__ import annotations

import io
import struct

import numpy as np

SHORT, LONG = 3, 4
SAMPLE_KINDS = {"u": 1, "i": 2, "f": 3}


def npy(values):
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def tiff(values, *, photometric=1, extra=0, big=False):
    """The bytes of an unpacked TIFF of (H, W, B): one strip, band beside band (TIFF 6.0, §2).

    `photometric`: 1 grey, 2 colours, 5 CMYK; `extra`: 0 what the further bands are is not
    said, 2 alpha; `big`: the header of a BigTIFF.
    """
    height, width, bands = values.shape
    kind = values.dtype.newbyteorder("<")
    colours = {1: 1, 2: 3, 5: 4}[photometric]
    tags = [
        (256, SHORT, (width,)),
        (257, SHORT, (height,)),
        (258, SHORT, (8 * kind.itemsize,) * bands),
        (259, SHORT, (1,)),
        (262, SHORT, (photometric,)),
        (273, LONG, ()),
        (277, SHORT, (bands,)),
        (278, SHORT, (height,)),
        (279, LONG, (values.nbytes,)),
        (284, SHORT, (1,)),
    ]
    if bands > colours:
        tags.append((338, SHORT, (extra,) * (bands - colours)))
    tags.append((339, SHORT, (SAMPLE_KINDS[kind.kind],) * bands))
    head, place, entry = (16, "Q", 20) if big else (8, "I", 12)
    size = struct.calcsize(place)
    count = "Q" if big else "H"
    after = head + struct.calcsize(f"<{count}") + entry * len(tags) + size
    parts = {
        tag: struct.pack(f"<{len(numbers)}{'H' if form == SHORT else 'I'}", *numbers)
        for tag, form, numbers in tags
    }
    long = b"".join(data for data in parts.values() if len(data) > size)
    parts[273] = struct.pack("<I", after + len(long))
    table = struct.pack(f"<{count}", len(tags))
    at = after
    for tag, form, numbers in tags:
        data = parts[tag]
        table += struct.pack(f"<HH{place}", tag, form, len(numbers) or 1)
        if len(data) > size:
            table += struct.pack(f"<{place}", at)
            at += len(data)
        else:
            table += data.ljust(size, b"\0")
    header = (
        b"II+\0" + struct.pack("<HHQ", 8, 0, head) if big else b"II*\0" + struct.pack("<I", head)
    )
    return header + table + struct.pack(f"<{place}", 0) + long + values.astype(kind).tobytes()


def training_data(label, seed, bands=13, side=40):
    """Reflectances of one class, int16: (side, side, bands); classes differ in bands 8 to 10."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1500, 300, (side, side, bands))
    values[..., min(8, bands - 1) :] += 1200 * label
    values[..., bands - 1] = 7.0  # a band that says nothing
    return values.clip(0, 10000).astype(np.int16)


def fill_bands(root, *, classes=2, n=6, write=npy, suffix=".npy", seed=0, bands=13):
    """A folder of class folders of such images."""
    for label in range(classes):
        folder = root / f"crop{label}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(n):
            values = training_data(label, [seed, label, number], bands)
            (folder / f"{number:03}{suffix}").write_bytes(write(values))
    return root
