"""Headers of .npy and TIFF files, and the values behind them."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from multiband_images import npy, tiff
from warmstart.errors import DataError
from warmstart.modalities.image import (
    band_order,
    count_samples,
    decode,
    read_header,
    read_npy_bands,
    read_tiff,
)

WIDE = np.arange(6 * 5 * 13, dtype=np.uint16).reshape(6, 5, 13) * 11


def header(payload):
    result = read_header(payload, "x")
    return result and (result.height, result.width, result.bands, result.is_picture)


def pillow(mode, **options):
    buffer = io.BytesIO()
    Image.new(mode, (5, 6)).save(buffer, "TIFF", **options)
    return buffer.getvalue()


NPY = {
    "grey": (np.zeros((6, 5), np.uint16), (6, 5, 1, True)),
    "one band": (np.zeros((6, 5, 1), np.int16), (6, 5, 1, True)),
    "colour": (np.zeros((6, 5, 3), np.float32), (6, 5, 3, True)),
    "alpha": (np.zeros((6, 5, 4), np.uint8), (6, 5, 4, True)),
    "four bands": (np.zeros((6, 5, 4), np.uint16), (6, 5, 4, False)),
    "two bands": (np.zeros((6, 5, 2), np.uint8), (6, 5, 2, False)),
    "bands last": (WIDE, (6, 5, 13, False)),
    "bands first": (np.zeros((13, 20, 30)), (20, 30, 13, False)),
}


@pytest.mark.parametrize(("values", "expected"), NPY.values(), ids=NPY)
def test_npy_headers(values, expected):
    assert header(npy(values)) == expected


TIFF = {
    "13 bands": (tiff(WIDE), (6, 5, 13, False)),
    "13 bands, BigTIFF": (tiff(WIDE, big=True), (6, 5, 13, False)),
    "16-bit colours": (tiff(WIDE[..., :3], photometric=2), (6, 5, 3, False)),
    "8-bit colours": (tiff(np.zeros((6, 5, 3), np.uint8), photometric=2), (6, 5, 3, True)),
    "alpha": (tiff(np.zeros((6, 5, 4), np.uint8), photometric=2, extra=2), (6, 5, 4, True)),
    "near infrared": (tiff(np.zeros((6, 5, 4), np.uint8), photometric=2), (6, 5, 4, False)),
    "CMYK": (tiff(np.zeros((6, 5, 4), np.uint8), photometric=5), (6, 5, 3, True)),
    "one 16-bit band": (tiff(WIDE[..., :1]), (6, 5, 1, True)),
    "one 64-bit band": (tiff(np.zeros((6, 5, 1))), (6, 5, 1, False)),
    "two bands": (tiff(np.zeros((6, 5, 2), np.uint8)), (6, 5, 2, False)),
    "a drawing": (pillow("1"), (6, 5, 1, True)),
    "a palette": (pillow("P"), (6, 5, 1, True)),
    "Pillow's own": (pillow("RGB", compression="tiff_lzw"), (6, 5, 3, True)),
}


@pytest.mark.parametrize(("payload", "expected"), TIFF.values(), ids=TIFF)
def test_tiff_headers(payload, expected):
    assert header(payload) == expected


@pytest.mark.parametrize("name", [n for n, (_, seen) in TIFF.items() if seen[3]])
def test_what_is_called_a_picture_can_be_opened_as_one(name):
    assert decode(TIFF[name][0], "x").size == (5, 6)


def test_other_files_have_no_such_header():
    buffer = io.BytesIO()
    Image.new("RGB", (5, 6)).save(buffer, "PNG")
    assert read_header(buffer.getvalue(), "x") is None
    assert read_header(b"", "x") is None


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
@pytest.mark.parametrize(
    "payload",
    [b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*" + b"\0" * 40, b"II+\0" + b"\1" * 30],
)
def test_damaged_tiff_headers(payload):
    with pytest.raises(DataError, match=r"^x is damaged \(its header makes no sense\)$"):
        read_header(payload, "x")
    assert count_samples(payload) == 0
    with pytest.raises(DataError, match="is damaged"):
        decode(payload, "x")


def test_many_bands_are_no_picture(capfd):
    with pytest.raises(DataError, match=r"^x has 13 bands; a picture has 1, 3 or 4$"):
        decode(tiff(WIDE), "x")
    assert capfd.readouterr().err == ""  # Pillow would log what it cannot decode


def test_orders():
    assert band_order((20, 30)) == "HW"
    assert band_order((2, 3, 4)) == "HWB"
    assert band_order((13, 14, 14)) == "BHW"
    assert band_order((14, 14, 14)) is None
    assert band_order((13, 13, 14)) is None
    assert band_order((1, 2, 3, 4)) is None


@pytest.mark.parametrize("order", "CF")
def test_npy_values_in_either_order(order):
    values = np.asarray(WIDE, order=order)
    np.testing.assert_array_equal(read_npy_bands(npy(values), "x"), WIDE)


def test_tiff_values():
    tifffile = pytest.importorskip("tifffile")
    for name, values in {
        "u16": WIDE,
        "i16": (WIDE - 300).astype(np.int16),
        "f32": WIDE.astype(np.float32) / 7,
        "f64": WIDE[..., :1] / 7,
        "u8": WIDE[..., :2].astype(np.uint8),
    }.items():
        for big in (False, True):
            result = read_tiff(tiff(values, big=big), name)
            assert result.dtype == values.dtype
            np.testing.assert_array_equal(result, values)
    ways = (
        {"planarconfig": "separate"},
        {"planarconfig": "contig", "tile": (16, 16)},
        {"planarconfig": "contig", "compression": "zlib", "predictor": True},
    )
    for options in ways:
        buffer = io.BytesIO()
        planes = np.moveaxis(WIDE, 2, 0) if options["planarconfig"] == "separate" else WIDE
        tifffile.imwrite(buffer, planes, photometric="minisblack", **options)
        np.testing.assert_array_equal(read_tiff(buffer.getvalue(), "x"), WIDE)


def test_tiff_files_that_cannot_be_read():
    pytest.importorskip("tifffile")
    with pytest.raises(DataError, match=r"^x is damaged \("):
        read_tiff(tiff(WIDE)[:-40], "x")
    packed = bytearray(tiff(WIDE))
    place = packed.index(struct.pack("<HHI", 259, 3, 1))
    packed[place + 8 : place + 10] = struct.pack("<H", 34925)  # LZMA over bytes that are not
    with pytest.raises(DataError, match=r"^x is (damaged|compressed in a way that needs)"):
        read_tiff(bytes(packed), "x")
    packed[place + 8 : place + 10] = struct.pack("<H", 34887)  # LERC
    with pytest.raises(DataError, match=r"^x is compressed in a way .*pip install imagecodecs$"):
        read_tiff(bytes(packed), "x")


def test_more_bands_than_are_read_and_too_many_pixels():
    with pytest.raises(DataError, match=r"^x has 14 bands; 1 to 13 are read$"):
        read_tiff(tiff(np.zeros((4, 4, 14), np.uint16)), "x")
    huge = bytearray(tiff(WIDE))
    huge[18:20] = huge[30:32] = struct.pack("<H", 60_000)  # width and height
    with pytest.raises(DataError, match=r"3,600 megapixels"):
        read_tiff(bytes(huge), "x")


def test_values_that_are_no_bands_of_an_image():
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    block = np.zeros((16, 16, 16), np.uint16)
    tifffile.imwrite(buffer, block, volumetric=True, tile=(16, 16, 16), photometric="minisblack")
    with pytest.raises(DataError, match=r"^x holds uint16 values in order ZYX, not bands of"):
        read_tiff(buffer.getvalue(), "x")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((16, 16), np.complex64))
    with pytest.raises(DataError, match=r"^x holds complex64 values in order YX, not bands of"):
        read_tiff(buffer.getvalue(), "x")


def test_without_tifffile_the_cure_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(
        DataError,
        match=r"^x is a TIFF of bands, which needs tifffile; run `pip "
        r"install .*tifffile`$",
    ):
        read_tiff(tiff(WIDE), "x")


def test_arrays_that_are_no_images():
    with pytest.raises(DataError, match=r"^x has shape \(20, 20, 20\); an image is"):
        read_header(npy(np.zeros((20, 20, 20))), "x")
