"""Untrusted bytes to pictures and bands: upright, scaled, prepared, or a DataError."""

from __future__ import annotations

import io
import random
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from multiband_images import npy, tiff, training_data
from warmstart.errors import DataError, ModelError
from warmstart.modalities.image import (
    EIGHT_BITS,
    IMAGE,
    as_picture,
    band_order,
    band_ranges,
    count_bands,
    count_samples,
    crop_box,
    decode,
    decode_bands,
    prepare,
    read_header,
    read_tiff,
    scale_bands,
    to_uint8,
)
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width=40, height=30, mode="RGB"):
    rng, n = np.random.default_rng(0), len(mode)
    return Image.fromarray(rng.integers(0, 256, (height, width, n), np.uint8), mode)


def encoded(mode, colour, kind="PNG", size=(30, 20), **options):
    return saved(Image.new(mode, size, colour), kind, **options)


LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_kinds_give_the_pixels_back(kind, options):
    decoded = decode(saved(noise(), kind, **options), "x")
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(noise()))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    payload = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode(payload, "x").getpixel((0, 0)), (255, 0, 0), atol=3)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "L"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGB")],
)
def test_every_png_mode_of_a_red_picture(mode, expected):
    decoded = decode(saved(Image.new("RGB", (2, 2), "red").convert(mode), "PNG"), "x")
    red = {"RGB": (255, 0, 0), "L": 76 if mode != "1" else decoded.getpixel((0, 0))}
    assert (decoded.mode, decoded.getpixel((0, 0))) == (expected, red[expected])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(mode):
    image = Image.new("RGB", (8, 8), (200, 40, 40))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        image = ImageCms.applyTransform(image, transform, inPlace=False)
    else:
        image = image.convert(mode)
    decoded = decode(saved(image, "TIFF"), "x")
    assert decoded.mode == "RGB"
    np.testing.assert_allclose(decoded.getpixel((4, 4)), (200, 40, 40), atol=3)


def test_transparency_lies_over_white():
    def colour(payload):
        return decode(payload, "x").getpixel((0, 0))

    assert colour(encoded("RGBA", (0, 0, 0, 128))) == (127, 127, 127)
    assert colour(encoded("LA", (0, 0))) == 255
    assert colour(npy(np.zeros((1, 1, 4), np.uint8))) == (255,) * 3
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([10, 20, 30] * 256)
    assert colour(saved(palette, "PNG", transparency=3)) == (255,) * 3
    assert colour(saved(palette, "PNG", transparency=4)) == (10, 20, 30)
    assert colour(encoded("RGB", (9, 9, 9), transparency=(9, 9, 9))) == (255,) * 3


def test_other_numbers_of_bits_and_floats():
    for kind in ("PNG", "TIFF", "PPM"):
        values = Image.fromarray(np.array([[0, 128, 129, 257, 65535]], np.uint16))
        assert np.asarray(decode(saved(values, kind), "x")).tolist() == [[0, 0, 1, 1, 255]]
    wide = Image.fromarray(np.array([[-5, 257, 70000]], np.int32))
    assert np.asarray(decode(saved(wide, "TIFF"), "x")).tolist() == [[0, 1, 255]]
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.asarray(decode(saved(unit, "TIFF"), "x")).tolist() == [[0, 128, 255]]
    bad = Image.fromarray(np.array([[np.nan]], np.float32))
    with pytest.raises(DataError, match="x holds NaN"):
        decode(saved(bad, "TIFF"), "x")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # a white corner, top left
    # What a camera stores so that `orientation` turns it upright: by the EXIF standard.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    decoded = np.asarray(decode(payload, "x").convert("L"))
    np.testing.assert_allclose(decoded, upright, atol=8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("notes", [b"MM\0*\xff\xff\xff\xffgarbage", b"no TIFF header here"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_cost_the_picture(kind, notes):
    payload = saved(noise(), kind, exif=b"Exif\0\0" + notes)
    assert decode(payload, "x").size == (40, 30)


def test_draft_keeps_twice_the_target_and_moves_pixels_by_little():
    payload = saved(noise(1600, 1000), "JPEG")
    for target, expected in [(400, (1600, 1000)), (250, (800, 500)), (100, (400, 250))]:
        assert decode(payload, "x", draft=target).size == expected
    payload = saved(smooth(1600, 1200), "JPEG", quality=95)
    fast, slow = IMAGE.encode(payload, "x", wants(3)), prepare(decode(payload, "x"), wants(3))
    assert np.abs(fast.astype(int) - slow).mean() < 1


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros(4, np.uint8), r"x has shape \(4,\)"),
        (np.zeros((2, 2, 2), np.uint8), "x has shape"),
        (np.array([["a"]]), "not pixels"),
        (np.array([[{}]], object), "holds object values, not pixels"),
        (np.full((2, 2), np.nan), "x holds NaN"),
        (np.full((2, 2), -1), "x holds values from -1 to -1"),
        (np.zeros((0, 3), np.uint8), "no pixels"),
    ],
)
def test_npy_that_is_no_image(array, part):
    with pytest.raises(DataError, match=part):
        decode(npy(array), "x")


def test_npy_headers_are_not_trusted():
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }\n"
    for shape, part in [(b"50000, 50000", "2,500 megapixels"), (b"100, 100", "is cut off")]:
        text = header % shape
        payload = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"12"
        with pytest.raises(DataError, match=part):
            decode(payload, "x")
    with pytest.raises(DataError, match=r"unknown .npy version"):
        decode(b"\x93NUMPY\x09\x00" + payload[8:], "x")
    pixels = np.asarray(noise())
    np.testing.assert_array_equal(decode(npy(np.asfortranarray(pixels)), "x"), pixels)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + tail

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("payload", "part"),
    [
        (b"", "is empty"),
        (b"\0" * 100, "is not an image"),
        (b"hello", "is not an image"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "is a web page, not an image"),
        (b"<html>", "is a web page, not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
        (b"<?xml version='1.0'?><svg/>", "is XML text"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not an image"),
        (png_header(50_000, 50_000), "has 2,500 megapixels; the limit is 64"),
        (png_header(10_000, 9_000), "has 90 megapixels; the limit is 64"),
        (png_header(0, 5), "is damaged (its header makes no sense)"),
        (saved(noise(), "JPEG")[:300], "is cut off"),
        (saved(noise(), "JPEG")[:-200], "is cut off"),
        (saved(noise(), "PNG")[:-200], "is cut off"),
        (saved(noise(), "BMP")[:-200], "is cut off"),
        (saved(noise(), "JPEG")[:3], "cat.jpg is"),
        (saved(noise(), "WEBP")[:-100], "cat.jpg is"),
        (saved(noise(), "TIFF")[:-200], "cat.jpg is"),
        (saved(noise(), "GIF")[:-400], "cat.jpg is"),
    ],
)
def test_bytes_that_are_no_image(payload, part):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the size check must come before Pillow's warning
        with pytest.raises(DataError) as caught:
            decode(payload, "cat.jpg")
    assert str(caught.value).startswith("cat.jpg ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_frame_larger_than_its_header_says():
    payload = bytearray(saved(Image.new("P", (4, 4)), "GIF"))
    frame = payload.index(b",", 13 + 3 * (2 << (payload[10] & 7)))  # after the palette
    payload[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(DataError, match="x has more than 64 megapixels"):
        decode(bytes(payload), "x")


def test_values_of_other_types():
    tifffile, buffer = pytest.importorskip("tifffile"), io.BytesIO()
    assert to_uint8(np.array([False, True]), "x").tolist() == [0, 255]
    with pytest.raises(DataError, match="x holds complex64 values; give uint8"):
        to_uint8(np.zeros(2, np.complex64), "x")
    tifffile.imwrite(buffer, np.zeros((16, 16), np.complex64))
    with pytest.raises(DataError, match=r"^x holds complex64 values in order YX, not bands of"):
        read_tiff(buffer.getvalue(), "x")


def test_memory_that_runs_out(monkeypatch):
    def exhausted(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", exhausted)
    with pytest.raises(DataError, match="x does not fit in memory"):
        decode(saved(noise(), "PNG"), "x")


SEEDS = [saved(noise(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")]


SEEDS.append(npy(np.zeros((4, 4, 3), np.uint8)))


@given(st.sampled_from(SEEDS), st.integers(0, 2**32 - 1), st.integers(1, 12))
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_a_data_error(payload, seed, n_changes):
    rng = random.Random(seed)
    damaged = bytearray(payload)
    for _ in range(n_changes):
        position = rng.randrange(min(len(damaged), rng.choice([64, 1 << 30])))
        damaged[position] = rng.randrange(256)
    if rng.random() < 0.3:
        damaged = damaged[: rng.randrange(len(damaged))]
    try:
        image = decode(bytes(damaged), "x")
    except DataError as error:
        message = str(error)
    else:
        message = f"x is {image.mode}"
        assert image.mode in ("L", "RGB")
    assert message.startswith("x ")
    assert "\n" not in message


@given(st.integers(0, 65535))
def test_sixteen_bit_rule_equals_division(value):
    assert to_uint8(np.array([value], np.uint16), "x")[0] == round(value / 257)


WIDE = np.arange(6 * 5 * 13, dtype=np.uint16).reshape(6, 5, 13) * 11


def header(payload):
    result = read_header(payload, "x")
    return result and (result.height, result.width, result.bands, result.is_picture)


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
    assert [band_order(shape) for shape in ((13, 14, 14), (14, 14, 14), (1, 2, 3, 4))] == [
        "BHW",
        None,
        None,
    ]


COLOURS, NEAR_INFRARED = np.zeros((6, 5, 3), np.uint8), np.zeros((6, 5, 4), np.uint8)


TIFF = {
    "13 bands": (tiff(WIDE), (6, 5, 13, False)),
    "13 bands, BigTIFF": (tiff(WIDE, big=True), (6, 5, 13, False)),
    "16-bit colours": (tiff(WIDE[..., :3], photometric=2), (6, 5, 3, False)),
    "8-bit colours": (tiff(COLOURS, photometric=2), (6, 5, 3, True)),
    "alpha": (tiff(NEAR_INFRARED, photometric=2, extra=2), (6, 5, 4, True)),
    "near infrared": (tiff(NEAR_INFRARED, photometric=2), (6, 5, 4, False)),
    "CMYK": (tiff(NEAR_INFRARED, photometric=5), (6, 5, 3, True)),
    "one 16-bit band": (tiff(WIDE[..., :1]), (6, 5, 1, True)),
    "one 64-bit band": (tiff(np.zeros((6, 5, 1))), (6, 5, 1, False)),
    "a drawing": (encoded("1", 0, "TIFF", (5, 6)), (6, 5, 1, True)),
    "a palette": (encoded("P", 0, "TIFF", (5, 6)), (6, 5, 1, True)),
    "Pillow's": (encoded("RGB", 0, "TIFF", (5, 6), compression="tiff_lzw"), (6, 5, 3, True)),
}


@pytest.mark.parametrize(("payload", "expected"), TIFF.values(), ids=TIFF)
def test_tiff_headers(payload, expected):
    assert header(payload) == expected
    if expected[3]:  # what is called a picture can be opened as one
        assert decode(payload, "x").size == (5, 6)


def test_files_without_a_header_of_bands_and_arrays_that_are_no_images():
    assert read_header(encoded("RGB", 0), "x") is None
    assert read_header(b"", "x") is None
    with pytest.raises(DataError, match=r"^x has shape \(20, 20, 20\); an image is"):
        read_header(npy(np.zeros((20, 20, 20))), "x")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
@pytest.mark.parametrize(
    "payload",
    [b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*" + b"\0" * 40, b"II+\0" + b"\1" * 30],
)
def test_damaged_tiff_headers(payload, capfd):
    with pytest.raises(DataError, match=r"^x is damaged \(its header makes no sense\)$"):
        read_header(payload, "x")
    assert count_samples(payload) == 0
    with pytest.raises(DataError, match="is damaged"):
        decode(payload, "x")
    with pytest.raises(DataError, match=r"^x has 13 bands; a picture has 1, 3 or 4$"):
        decode(tiff(WIDE), "x")
    assert capfd.readouterr().err == ""  # Pillow would log what it cannot decode


def test_tiff_values():
    tifffile = pytest.importorskip("tifffile")
    kinds = (WIDE, (WIDE - 300).astype("i2"), WIDE.astype("f4") / 7, WIDE[..., :2].astype("u1"))
    for values in kinds:
        for big in (False, True):
            result = read_tiff(tiff(values, big=big), "x")
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

    def changed(place, number):
        packed = bytearray(tiff(WIDE))
        packed[place : place + 2] = struct.pack("<H", number)
        return bytes(packed)

    coding = tiff(WIDE).index(struct.pack("<HHI", 259, 3, 1)) + 8
    width, height = 18, 30
    huge = bytearray(changed(width, 60_000))
    huge[height : height + 2] = struct.pack("<H", 60_000)
    for payload, message in (
        (tiff(WIDE)[:-40], r"^x is damaged \("),
        (changed(coding, 34925), r"^x is (damaged|compressed in a way that needs)"),  # LZMA
        (changed(coding, 34887), r"^x is compressed in a way .*pip install imagecodecs$"),  # LERC
        (tiff(np.zeros((4, 4, 14), np.uint16)), r"^x has 14 bands; 1 to 13 are read$"),
        (bytes(huge), r"3,600 megapixels"),
    ):
        with pytest.raises(DataError, match=message):
            read_tiff(payload, "x")


def wants(channels, ranges=(), size=(24, 24), resize=28, **options):
    half = (0.5,) * channels
    return Preprocessing(size=size, resize=resize, mean=half, std=half, ranges=ranges, **options)


def spotted(mode="RGB"):
    """A picture that is not of one colour."""
    return saved(noise(50, 40, mode), "PNG")


def source(files, splits=None):
    """A `load` and its examples, one a file."""
    split = (splits or {}).get
    examples = [
        Example(id=name, label="a", split=split(name, "train"), sha256=name) for name in files
    ]
    return files.__getitem__, examples


# ---- reading ------------------------------------------------------------------------------
BANDED = training_data(0, 1)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8", "?"])
@pytest.mark.parametrize("bands", [1, 3, 4, 13])
def test_npy_of_any_type_number_of_bands_and_order(dtype, bands):
    values = (BANDED[..., :bands] % 200).astype(dtype)
    for array in (values, np.moveaxis(values, 2, 0), np.asfortranarray(values)):
        result = decode_bands(npy(array), "x")
        assert result.dtype == values.dtype
        np.testing.assert_array_equal(result, values)
    np.testing.assert_array_equal(decode_bands(npy(values[..., 0]), "x"), values[..., :1])


@pytest.mark.parametrize(
    ("payload", "shape", "dtype", "first"),
    [
        (encoded("L", 9), (20, 30, 1), "uint8", [9]),
        (encoded("1", 1), (20, 30, 1), "uint8", [255]),
        (encoded("RGB", (1, 2, 3)), (20, 30, 3), "uint8", [1, 2, 3]),
        (encoded("RGBA", (1, 2, 3, 4)), (20, 30, 4), "uint8", [1, 2, 3, 4]),
        (encoded("P", 0), (20, 30, 3), "uint8", [0, 0, 0]),
        (encoded("I;16", 4000), (20, 30, 1), "uint16", [4000]),
        (encoded("F", 0.25, "TIFF"), (20, 30, 1), "float32", [0.25]),
        (tiff(BANDED[..., :1]), (40, 40, 1), "int32", BANDED[0, 0, :1].tolist()),
    ],
)
def test_pictures_as_bands(payload, shape, dtype, first):
    result = decode_bands(payload, "x")
    assert (result.shape, str(result.dtype), result[0, 0].tolist()) == (shape, dtype, first)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "^x is empty$"),
        (b"hello", "^x is not an image$"),
        (npy(np.full((4, 4, 13), np.nan)), r"^x holds NaN or infinity; replace those values$"),
        (npy(np.full((4, 4), np.inf, np.float32)), r"^x holds NaN or infinity"),
        (npy(np.zeros((20, 20, 20))), r"^x has shape \(20, 20, 20\); bands are \(H, W, B\) or"),
        (npy(np.zeros(9)), r"^x has shape \(9,\)"),
        (npy(np.zeros((4, 4), complex)), "^x holds complex128 values, not pixels$"),
        (npy(BANDED)[:-9], "^x is cut off$"),
        (tiff(np.zeros((3, 3, 20), np.uint16)), "^x has 20 bands; 1 to 13 are read$"),
        (spotted()[:900], "^x is cut off$"),
    ],
)
def test_what_cannot_be_read(payload, message):
    with pytest.raises(DataError, match=message):
        decode_bands(payload, "x")


COUNTS = {
    "colour": ([spotted()], 3),
    "grey": ([encoded("L", 5), encoded("I;16", 5)], 1),
    "grey stored as colour": ([encoded("RGB", (5, 5, 5)), encoded("L", 3)], 1),
    "one is coloured": ([encoded("L", 5), encoded("RGB", (255, 0, 0))], 3),
    "alpha does not count": ([spotted("RGBA"), spotted()], 3),
    "grey with alpha": ([encoded("LA", (5, 9))], 1),
    "an array with alpha": ([npy(np.zeros((9, 9, 4), np.uint8))], 3),
    "a grey array": ([npy(np.zeros((9, 9)))], 1),
    "near infrared": ([tiff(np.zeros((9, 9, 4), np.uint8), photometric=2)], 4),
    "16 bits of four": ([npy(np.zeros((9, 9, 4), np.uint16))], 4),
    "Sentinel-2": ([npy(BANDED), tiff(BANDED)], 13),
    "bands first": ([npy(np.moveaxis(BANDED, 2, 0))], 13),
    "what cannot be read is passed over": ([b"hello", npy(BANDED)], 13),
    "nothing can be read": ([b"hello"], 3),
    "nothing": ([], 3),
}


@pytest.mark.parametrize("name", COUNTS)
def test_how_many_channels(name):
    files, n = COUNTS[name]
    load, examples = source(dict(zip("ab", files, strict=False)))
    assert count_bands(load, examples) == n
    assert count_bands(load, examples, with_alpha=True) == (4 if "alpha" in name else n)


def test_ranges_are_percentiles_of_each_band_of_training_files():
    values = [training_data(n % 2, n) for n in range(6)]
    files = {str(n): npy(one) for n, one in enumerate(values)}
    loud = {"loud": npy(np.full((9, 9, 13), 30_000, np.int16))}
    ranges = band_ranges(*source(files | loud, {"loud": "test"}))
    assert ranges == band_ranges(*source(files))
    flat = np.concatenate([one.reshape(-1, 13) for one in values]).astype(float)
    slow = np.percentile(flat, (1, 99), axis=0).T
    np.testing.assert_allclose(ranges[:-1], slow[:-1])  # 40 x 40 px: no pixel was left out
    assert ranges[-1] == (7.0, 8.0)  # constant


def test_a_few_files_spread_over_all_and_some_pixels_are_looked_at():
    seen, files = [], {str(n): encoded("L", n) for n in range(100)}
    _, examples = source(files)
    count_bands(lambda id: seen.append(int(id)) or files[id], examples)
    assert seen == [0, 14, 28, 42, 57, 71, 85, 99]
    seen, files = [], {str(n): npy(np.full((2, 2), n)) for n in range(1000)}
    _, examples = source(files)
    ((low, high),) = band_ranges(lambda id: seen.append(id) or files[id], examples)
    assert len(seen) == 200
    assert (low, high) == pytest.approx((9.99, 989.01), abs=1)
    ramp = np.tile(np.arange(1000, dtype=np.uint16), (1000, 1))
    ((low, high),) = band_ranges(*source({"a": npy(ramp)}))  # of every column
    assert (low, high) == pytest.approx((9.99, 989.01), abs=3)
    steady = np.zeros((50, 100, 1), np.float32)
    steady[0, 0] = 5
    assert band_ranges(*source({"a": npy(steady)})) == ((0.0, 5.0),)  # it hardly varies


def test_eight_bits_stay_as_they_are():
    files = {"a": npy(np.full((9, 9, 5), 40, np.uint8))}
    assert band_ranges(*source(files)) == (EIGHT_BITS,) * 5
    values = (BANDED % 256).astype(np.uint8)
    np.testing.assert_array_equal(scale_bands(values, (EIGHT_BITS,) * 13, "x"), values)
    np.testing.assert_array_equal(IMAGE.open(npy(values), "x", wants(13)), values)
    with pytest.raises(DataError, match=r"^x holds values from .* give 0 to 1 or 0 to 255"):
        IMAGE.open(npy(BANDED), "x", wants(13))


def test_ranges_that_cannot_be_had(monkeypatch):
    mixed = {"a": npy(BANDED), "b": npy(BANDED.astype(np.uint16))}
    with pytest.raises(DataError, match=r"^a holds int16 values, b uint16; give files of one kind"):
        band_ranges(*source(mixed))
    with pytest.raises(DataError, match=r"^a has 13 bands, b 2; give files"):
        band_ranges(*source({"a": npy(BANDED), "b": npy(BANDED[..., :2])}))
    with pytest.raises(DataError, match=r"^a is not an image$"):
        band_ranges(*source({"a": b"hello", "b": b""}))
    with pytest.raises(DataError, match=r"^no training image to compute the ranges"):
        band_ranges(*source({"a": npy(BANDED)}, {"a": "test"}))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    cure = r"run `pip install .*tifffile`$"
    with pytest.raises(DataError, match=rf"^a is a TIFF of bands, which needs tifffile; {cure}"):
        band_ranges(*source({"a": tiff(BANDED)}))
    assert len(band_ranges(*source({"a": b"hello", "b": npy(BANDED)}))) == 13


@pytest.mark.parametrize("dtype", ["u2", "i2", "f4", "f8", "i4"])
def test_scaling_is_the_plain_formula(dtype):
    values = training_data(1, 3).astype(dtype)
    ranges = tuple((float(low), float(low) + 900.0) for low in range(900, 2200, 100))
    low, high = np.array(ranges).T
    slow = np.rint(255 * np.clip((values.astype(float) - low) / (high - low), 0, 1))
    result = scale_bands(values, ranges, "x")
    assert result.dtype == np.uint8
    assert np.abs(result - slow).max() <= 1
    assert (result == slow).mean() > 0.999


def test_bands_are_prepared_one_by_one_as_grey_pictures_are():
    ranges = ((1000.0, 3000.0),) * 13
    result = IMAGE.encode(npy(BANDED), "x", wants(13, ranges))
    assert (result.shape, result.dtype) == ((24, 24, 13), np.uint8)
    assert result.flags.c_contiguous
    scaled = scale_bands(BANDED, ranges, "x")
    for band in range(13):
        grey = Image.fromarray(np.ascontiguousarray(scaled[..., band]))
        slow = prepare(grey, wants(1, interpolation="bilinear"))
        np.testing.assert_array_equal(result[..., band], slow[..., 0])


def test_alpha_is_kept_and_does_not_touch_the_colours():
    picture = noise(50, 40, "RGBA")
    pixels, colours = np.asarray(picture), saved(noise(50, 40, "RGBA").convert("RGB"), "PNG")
    result = IMAGE.encode(saved(picture, "PNG"), "x", wants(4))
    np.testing.assert_array_equal(result[..., :3], IMAGE.encode(colours, "x", wants(3)))
    np.testing.assert_array_equal(result, IMAGE.encode(npy(pixels), "x", wants(4)))
    one = prepare(Image.fromarray(pixels[..., 3].copy()), wants(1))
    np.testing.assert_array_equal(result[..., 3:], one)
    assert (IMAGE.encode(colours, "x", wants(4))[..., 3] == 255).all()
    assert as_picture(np.zeros((4, 5, 2), np.uint8)).mode == "L"
    assert as_picture(np.zeros((4, 5, 13), np.uint8)).mode == "RGB"
    clear = IMAGE.open(encoded("RGBA", (9, 9, 9, 0)), "x", wants(4))
    assert as_picture(clear).getpixel((0, 0)) == (255, 255, 255)


def test_any_picture_can_be_fed_with_alpha():
    arrays = [npy(np.zeros(shape, np.uint8)) for shape in ((9, 9), (9, 9, 1))]
    modes = [("L", 9), ("LA", (9, 3)), ("P", 0), ("I;16", 900)]
    for payload in (*arrays, *(encoded(*mode) for mode in modes)):
        assert IMAGE.encode(payload, "x", wants(4)).shape == (24, 24, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_network_with_ranges_for_one_or_three_takes_ordinary_pictures(channels, mode):
    payload = spotted(mode)
    result = IMAGE.encode(payload, "x", wants(channels, (EIGHT_BITS,) * channels))
    picture = decode(payload, "x").convert("L" if channels == 1 else "RGB")
    bands = np.asarray(picture).reshape(40, 50, channels)
    np.testing.assert_array_equal(result, prepare(bands, wants(channels)))


def test_another_number_of_bands_is_named():
    thirteen, three = wants(13, ((0.0, 9.0),) * 13), wants(3, ((0.0, 9.0),) * 3)
    for payload, inputs, message in (
        (npy(BANDED[..., :12]), thirteen, "has 12 bands; the network takes 13"),
        (encoded("L", 3), thirteen, "has 1 band; the network takes 13"),
        (npy(BANDED), three, "has 13 bands; the network takes 3"),
    ):
        with pytest.raises(DataError, match=rf"^x {message}$"):
            IMAGE.encode(payload, "x", inputs)
    with pytest.raises(DataError, match=r"^x has 12 bands; the network takes 13$"):
        scale_bands(BANDED[..., :12], thirteen.ranges, "x")
    files = {"a": npy(BANDED), "b": npy(BANDED[..., :12])}
    with pytest.raises(DataError, match=r"^a has 13 bands, b 12; give files of one kind, or lea"):
        count_bands(*source(files))


def test_the_decoders_name_tells_all_that_a_failure_may_depend_on(monkeypatch):
    ranges, plain = ((0.0, 9.0),) * 13, IMAGE.decoder(wants(3))
    assert plain == IMAGE.decoder(wants(1))
    assert plain.startswith("pillow ")
    assert "," not in plain
    others = ((13, ranges), (13, (*ranges[:12], (0.0, 8.0))), (12, ranges[:12]), (13, ()), (4, ()))
    names = [plain, *(IMAGE.decoder(wants(*other)) for other in others)]
    version = "warmstart.modalities.modality.installed_version"
    monkeypatch.setattr(version, lambda name: f"{name} of later")
    names.append(IMAGE.decoder(wants(13, ranges)))
    assert len(set(names)) == len(names)


REAL = Path(__file__).parents[2].parent / "shared/data/images/trashnet"


FILTERS = {"bicubic": 3, "bilinear": 2, "nearest": 0, "lanczos": 1}


def fitting(size=(224, 224), resize=256, channels=3, **options):
    return wants(channels, (), size, resize, **options)


def smooth(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    small = Image.fromarray(rng.integers(64, 192, (7, 9, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def two_steps(image: Image.Image, p: Preprocessing) -> np.ndarray:
    """The slow definition, as torchvision words it: resize, then cut the centre out."""
    width, height = image.size
    if p.squash:
        new = (p.resize, p.resize)
    elif width <= height:
        new = (p.resize, int(p.resize * height / width))
    else:
        new = (int(p.resize * width / height), p.resize)
    resized = image.resize(new, FILTERS[p.interpolation])
    high, wide = p.size
    left, top = round((new[0] - wide) / 2), round((new[1] - high) / 2)
    return np.asarray(resized.crop((left, top, left + wide, top + high)))


@settings(max_examples=60)
@given(
    st.integers(20, 300),
    st.integers(20, 300),
    st.integers(16, 64),
    st.integers(0, 40),
    st.sampled_from(["bicubic", "bilinear", "lanczos"]),
    st.booleans(),
)
def test_one_step_equals_two_steps(width, height, size, margin, interpolation, squash):
    p = fitting((size, size), size + margin, interpolation=interpolation, squash=squash)
    image = smooth(width, height)
    difference = prepare(image, p).astype(int) - two_steps(image, p)
    assert np.abs(difference).max() <= 2  # a rounding in each direction, never a shift


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 400),
    st.booleans(),
)
def test_the_box_lies_inside_and_is_centred(width, height, crop_h, crop_w, resize, squash):
    box = crop_box((width, height), fitting((crop_h, crop_w), resize, squash=squash))
    left, top, right, bottom = box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # Off centre by at most one pixel of the resized picture.
    assert abs(left - (width - right)) <= (right - left) / crop_w * 1.001
    assert abs(top - (height - bottom)) <= (bottom - top) / crop_h * 1.001


@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_000), (1, 1), (3, 2), (5000, 40)])
@pytest.mark.parametrize("squash", [False, True])
def test_extreme_and_tiny_images(size, squash):
    pixels = prepare(Image.new("RGB", size, (10, 20, 30)), fitting(squash=squash))
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 20, 30)).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_memory_order(mode, channels):
    image = smooth(60, 50).convert(mode)
    pixels = prepare(image, fitting((30, 90), 20, channels))  # a crop wider than the resize
    assert (pixels.shape, pixels.dtype) == ((30, 90, channels), np.uint8)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    if mode == "L" and channels == 3:
        assert (pixels == pixels[..., :1]).all()
    with pytest.raises(ModelError, match="takes 4 channels"):
        prepare(image, fitting(channels=4))
    chess = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    nearest = prepare(chess, fitting((4, 4), 4, 1, interpolation="nearest"))
    assert set(np.unique(nearest)) == {0, 255}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not on this machine")
def test_real_photographs_equal_two_steps():
    for path in sorted(REAL.rglob("*.jpg"))[:20]:
        with Image.open(path) as image:
            slow = two_steps(image.convert("RGB"), fitting())
        fast = IMAGE.encode(path.read_bytes(), path.name, fitting())
        difference = np.abs(fast.astype(int) - slow)
        # Pillow may go down before across where that is less work, and clips in between.
        assert (difference > 1).mean() < 0.002
        assert difference.mean() < 0.25
