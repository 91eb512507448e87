"""Any bytes become an upright 8-bit picture or a DataError, and nothing is printed."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from warmstart.errors import DataError
from warmstart.modalities.image import decode, to_uint8


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_kinds_give_the_pixels_back(kind, options):
    image = noise()
    decoded = decode(saved(image, kind, **options), "x")
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(image))


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
        from PIL import ImageCms

        probe_layers = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(
            image, ImageCms.buildTransform(*probe_layers, "RGB", "LAB"), inPlace=False
        )
    else:
        image = image.convert(mode)
    decoded = decode(saved(image, "TIFF"), "x")
    assert decoded.mode == "RGB"
    np.testing.assert_allclose(decoded.getpixel((4, 4)), (200, 40, 40), atol=3)


def test_transparency_lies_over_white():
    half = decode(saved(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"), "x")
    assert half.getpixel((0, 0)) == (127, 127, 127)
    grey = decode(saved(Image.new("LA", (1, 1), (0, 0)), "PNG"), "x")
    assert (grey.mode, grey.getpixel((0, 0))) == ("L", 255)
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([10, 20, 30] * 256)
    assert decode(saved(palette, "PNG", transparency=3), "x").getpixel((0, 0)) == (255,) * 3
    assert decode(saved(palette, "PNG", transparency=4), "x").getpixel((0, 0)) == (10, 20, 30)
    key = saved(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG", transparency=(9, 9, 9))
    assert decode(key, "x").getpixel((0, 0)) == (255,) * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_divided_by_257(kind):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    decoded = decode(saved(Image.fromarray(values), kind), "x")
    assert decoded.mode == "L"
    assert np.asarray(decoded).tolist() == [np.rint(values[0] / 257).astype(int).tolist()]


def test_thirty_two_bits_and_floats():
    wide = Image.fromarray(np.array([[-5, 257, 70000]], np.int32))
    assert np.asarray(decode(saved(wide, "TIFF"), "x")).tolist() == [[0, 1, 255]]
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.asarray(decode(saved(unit, "TIFF"), "x")).tolist() == [[0, 128, 255]]
    bad = Image.fromarray(np.array([[np.nan]], np.float32))
    with pytest.raises(DataError, match="x holds NaN"):
        decode(saved(bad, "TIFF"), "x")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    payload = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode(payload, "x").getpixel((0, 0)), (255, 0, 0), atol=3)


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


def test_draft_keeps_twice_the_target():
    payload = saved(noise(1600, 1000), "JPEG")
    for target, expected in [(400, (1600, 1000)), (250, (800, 500)), (100, (400, 250))]:
        assert decode(payload, "x", draft=target).size == expected
    assert decode(saved(noise(1600, 1000), "PNG"), "x", draft=10).size == (1600, 1000)


ARRAYS = {
    "grey": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "one channel": np.arange(12, dtype=np.uint8).reshape(3, 4, 1),
    "colour": np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
    "Fortran order": np.asfortranarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_npy_gives_the_pixels_back(name):
    decoded = np.asarray(decode(npy(ARRAYS[name]), "x"))
    np.testing.assert_array_equal(decoded, ARRAYS[name].squeeze())


def test_npy_with_alpha_lies_over_white():
    assert decode(npy(np.zeros((1, 1, 4), np.uint8)), "x").getpixel((0, 0)) == (255,) * 3


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


def test_threads_give_what_one_thread_gives():
    payloads = [saved(noise(30 + i, 20), "JPEG") for i in range(20)] * 5
    expected = [decode(payload, "x").tobytes() for payload in payloads]
    with ThreadPoolExecutor(4) as threads:
        assert [i.tobytes() for i in threads.map(lambda p: decode(p, "x"), payloads)] == expected


@given(st.integers(0, 65535))
def test_sixteen_bit_rule_equals_division(value):
    assert to_uint8(np.array([value], np.uint16), "x")[0] == round(value / 257)


def test_truth_values_are_black_and_white():
    assert to_uint8(np.array([False, True]), "x").tolist() == [0, 255]
