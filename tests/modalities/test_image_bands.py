"""Images of bands: read as they are, scaled by training values alone, prepared as pictures are."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from multiband_images import fill_bands, npy, tiff, training_data
from warmstart.data.read import read
from warmstart.data.thumbnails import make_thumbnail, unpack
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.modalities.image import (
    EIGHT_BITS,
    IMAGE,
    as_picture,
    band_ranges,
    count_bands,
    decode,
    decode_bands,
    prepare,
    scale_bands,
)
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing


def wants(channels, ranges=(), size=(24, 24), resize=28):
    half = (0.5,) * channels
    return Preprocessing(size=size, resize=resize, mean=half, std=half, ranges=ranges)


def encoded(mode, colour, kind="PNG", size=(30, 20)):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


def spotted(mode, n=3):
    """A picture that is not of one colour."""
    rng = np.random.default_rng(n)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (40, 50, n), np.uint8), mode).save(buffer, "PNG")
    return buffer.getvalue()


def source(files, splits=None):
    """A `load` and its examples, one a file."""
    examples = [
        Example(
            id=name, label="a", split=(splits or {}).get(name, "train"), sha256=name, group=None
        )
        for name in files
    ]
    return files.__getitem__, examples


# ---- reading ------------------------------------------------------------------------------

BANDED = training_data(0, 1)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8", "?"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13])
def test_npy_of_any_type_and_number_of_bands(dtype, bands):
    values = (BANDED[..., :bands] % 200).astype(dtype)
    result = decode_bands(npy(values), "x")
    assert result.dtype == values.dtype
    np.testing.assert_array_equal(result, values)
    first = decode_bands(npy(np.moveaxis(values, 2, 0)), "x")
    np.testing.assert_array_equal(first, values)
    np.testing.assert_array_equal(decode_bands(npy(values[..., 0]), "x"), values[..., :1])


def test_tiff_of_bands():
    pytest.importorskip("tifffile")
    np.testing.assert_array_equal(decode_bands(tiff(BANDED), "x"), BANDED)
    colours = BANDED[..., :3].astype(np.uint16) * 7  # Pillow would give 8 bits
    np.testing.assert_array_equal(decode_bands(tiff(colours, photometric=2), "x"), colours)


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
        (spotted("RGB")[:900], "^x is cut off$"),
    ],
)
def test_what_cannot_be_read(payload, message):
    with pytest.raises(DataError, match=message):
        decode_bands(payload, "x")


# ---- how many -----------------------------------------------------------------------------

COUNTS = {
    "colour": ({"a": spotted("RGB")}, 3),
    "grey": ({"a": encoded("L", 5), "b": encoded("I;16", 5)}, 1),
    "grey stored as colour": ({"a": encoded("RGB", (5, 5, 5)), "b": encoded("L", 3)}, 1),
    "one is coloured": ({"a": encoded("L", 5), "b": encoded("RGB", (255, 0, 0))}, 3),
    "alpha does not count": ({"a": spotted("RGBA", 4), "b": spotted("RGB")}, 3),
    "grey with alpha": ({"a": encoded("LA", (5, 9))}, 1),
    "an array with alpha": ({"a": npy(np.zeros((9, 9, 4), np.uint8))}, 3),
    "a grey array": ({"a": npy(np.zeros((9, 9)))}, 1),
    "near infrared": ({"a": tiff(np.zeros((9, 9, 4), np.uint8), photometric=2)}, 4),
    "16 bits of four": ({"a": npy(np.zeros((9, 9, 4), np.uint16))}, 4),
    "Sentinel-2": ({"a": npy(BANDED), "b": tiff(BANDED)}, 13),
    "bands first": ({"a": npy(np.moveaxis(BANDED, 2, 0))}, 13),
    "what cannot be read is passed over": ({"a": b"hello", "b": npy(BANDED)}, 13),
    "nothing can be read": ({"a": b"hello"}, 3),
    "nothing": ({}, 3),
}


@pytest.mark.parametrize(("files", "n"), COUNTS.values(), ids=COUNTS)
def test_how_many_channels(files, n):
    assert count_bands(*source(files)) == n


def test_alpha_counts_where_it_is_requested():
    assert (
        count_bands(*source({"a": spotted("RGBA", 4), "b": spotted("RGB")}), with_alpha=True) == 4
    )
    assert count_bands(*source({"b": spotted("RGB")}), with_alpha=True) == 3
    assert count_bands(*source({"a": npy(BANDED)}), with_alpha=True) == 13


def test_files_that_differ_are_named():
    files = {"a": npy(BANDED), "b": npy(BANDED), "c": npy(BANDED[..., :12])}
    with pytest.raises(DataError, match=r"^b has 13 bands, c 12; give files of one kind, or leave"):
        count_bands(*source(files))
    with pytest.raises(DataError, match=r"^a has 13 bands, b 3; give files of one kind"):
        count_bands(*source({"a": npy(BANDED), "b": spotted("RGB")}))


def test_a_few_files_spread_over_all_are_looked_at():
    files = {str(n): encoded("L", n) for n in range(100)}
    seen = []
    _, examples = source(files)
    count_bands(lambda id: seen.append(int(id)) or files[id], examples)
    assert seen == [0, 14, 28, 42, 57, 71, 85, 99]


# ---- ranges -------------------------------------------------------------------------------


def test_ranges_are_percentiles_of_each_band():
    files = {str(n): npy(training_data(n % 2, n)) for n in range(6)}
    values = np.concatenate([training_data(n % 2, n).reshape(-1, 13) for n in range(6)])
    result = np.array(band_ranges(*source(files)))
    slow = np.percentile(values.astype(float), (1, 99), axis=0).T
    np.testing.assert_allclose(result[:-1], slow[:-1])  # 40 x 40 px: no pixel was left out
    assert result[-1].tolist() == [7.0, 8.0]  # constant


def test_only_training_files_count_and_labels_do_not():
    files = {str(n): npy(training_data(0, n)) for n in range(4)}
    loud = {f"loud{n}": npy(np.full((9, 9, 13), 30_000, np.int16)) for n in range(3)}
    splits = {"loud0": "test", "loud1": "holdout", "loud2": "test"}
    load, examples = source(files | loud, splits)
    assert band_ranges(load, examples) == band_ranges(*source(files))


def test_at_most_two_hundred_files_are_looked_at():
    seen = []
    files = {str(n): npy(np.full((2, 2), n)) for n in range(1000)}
    _, examples = source(files)
    ((low, high),) = band_ranges(lambda id: seen.append(id) or files[id], examples)
    assert len(seen) == 200
    assert (low, high) == pytest.approx((9.99, 989.01), abs=1)


def test_large_files_are_sampled_in_every_column():
    ramp = np.tile(np.arange(1000, dtype=np.uint16), (1000, 1))
    ((low, high),) = band_ranges(*source({"a": npy(ramp)}))
    assert (low, high) == pytest.approx((9.99, 989.01), abs=3)


def test_eight_bits_stay_as_they_are():
    files = {"a": npy(np.full((9, 9, 5), 40, np.uint8))}
    assert band_ranges(*source(files)) == ((0.0, 255.0),) * 5
    values = np.random.default_rng(0).integers(0, 256, (9, 9, 5), np.uint8)
    assert scale_bands(values, (EIGHT_BITS,) * 5, "x") is not None
    np.testing.assert_array_equal(scale_bands(values, (EIGHT_BITS,) * 5, "x"), values)


def test_a_band_that_hardly_varies_is_scaled_by_its_extent():
    values = np.zeros((200, 100, 1), np.float32)
    values[0, 0] = 5
    assert band_ranges(*source({"a": npy(values[:50])})) == ((0.0, 5.0),)


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


# ---- prepared -----------------------------------------------------------------------------


def test_bands_are_prepared_one_by_one_as_grey_pictures_are():
    ranges = ((1000.0, 3000.0),) * 13
    prep = wants(13, ranges)
    result = IMAGE.encode(npy(BANDED), "x", prep)
    assert (result.shape, result.dtype) == ((24, 24, 13), np.uint8)
    assert result.flags.c_contiguous
    scaled = scale_bands(BANDED, ranges, "x")
    one = Preprocessing(size=(24, 24), resize=28, mean=(0.5,), std=(0.5,), interpolation="bilinear")
    for band in range(13):
        slow = prepare(Image.fromarray(np.ascontiguousarray(scaled[..., band])), one)
        np.testing.assert_array_equal(result[..., band], slow[..., 0])


def test_npy_and_tiff_give_the_same():
    pytest.importorskip("tifffile")
    prep = wants(13, ((1000.0, 3000.0),) * 13)
    np.testing.assert_array_equal(
        IMAGE.encode(npy(BANDED), "x", prep), IMAGE.encode(tiff(BANDED), "x", prep)
    )


def test_eight_bit_bands_need_no_ranges():
    values = (BANDED % 256).astype(np.uint8)
    result = IMAGE.open(npy(values), "x", wants(13))
    np.testing.assert_array_equal(result, values)
    with pytest.raises(DataError, match=r"^x holds values from .* give 0 to 1 or 0 to 255"):
        IMAGE.open(npy(BANDED), "x", wants(13))


def test_colours_of_an_opaque_picture_are_what_they_are_without_alpha():
    payload = spotted("RGB")
    four = IMAGE.encode(payload, "x", wants(4))
    np.testing.assert_array_equal(four[..., :3], IMAGE.encode(payload, "x", wants(3)))
    assert (four[..., 3] == 255).all()


def test_alpha_is_kept_and_does_not_touch_the_colours():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (40, 50, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    result = IMAGE.encode(buffer.getvalue(), "x", wants(4))
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., :3]).save(buffer, "PNG")
    np.testing.assert_array_equal(result[..., :3], IMAGE.encode(buffer.getvalue(), "x", wants(3)))
    np.testing.assert_array_equal(result, IMAGE.encode(npy(pixels), "x", wants(4)))
    one = prepare(Image.fromarray(pixels[..., 3].copy()), wants(1))
    np.testing.assert_array_equal(result[..., 3:], one)


@pytest.mark.parametrize(
    "payload",
    [
        encoded("L", 9),
        encoded("LA", (9, 3)),
        encoded("P", 0),
        npy(np.zeros((9, 9), np.uint8)),
        encoded("I;16", 900),
        npy(np.zeros((9, 9, 1), np.uint8)),
    ],
)
def test_any_picture_can_be_fed_with_alpha(payload):
    assert IMAGE.encode(payload, "x", wants(4)).shape == (24, 24, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_network_with_ranges_for_one_or_three_takes_ordinary_pictures(channels, mode):
    payload = spotted(mode, len(mode))
    result = IMAGE.encode(payload, "x", wants(channels, (EIGHT_BITS,) * channels))
    picture = decode(payload, "x").convert("L" if channels == 1 else "RGB")
    bands = np.asarray(picture).reshape(40, 50, channels)
    np.testing.assert_array_equal(result, prepare(bands, wants(channels)))


def test_another_number_of_bands_is_named():
    prep = wants(13, ((0.0, 9.0),) * 13)
    with pytest.raises(DataError, match=r"^x has 12 bands; the network takes 13$"):
        IMAGE.encode(npy(BANDED[..., :12]), "x", prep)
    with pytest.raises(DataError, match=r"^x has 1 band; the network takes 13$"):
        IMAGE.encode(encoded("L", 3), "x", prep)
    with pytest.raises(DataError, match=r"^x has 12 bands; the network takes 13$"):
        scale_bands(BANDED[..., :12], prep.ranges, "x")
    with pytest.raises(DataError, match=r"^x has 13 bands; the network takes 3$"):
        IMAGE.encode(npy(BANDED), "x", wants(3, ((0.0, 9.0),) * 3))


def test_the_decoders_name_tells_all_that_a_failure_may_depend_on(monkeypatch):
    ranges = ((0.0, 9.0),) * 13
    plain = IMAGE.decoder(wants(3))
    assert plain == IMAGE.decoder(wants(1))
    assert plain.startswith("pillow ")
    assert "," not in plain  # what was kept for pictures before stays good
    names = [
        plain,
        IMAGE.decoder(wants(4)),
        IMAGE.decoder(wants(13, ranges)),
        IMAGE.decoder(wants(13, (*ranges[:12], (0.0, 8.0)))),
        IMAGE.decoder(wants(12, ranges[:12])),
        IMAGE.decoder(wants(13)),
    ]
    monkeypatch.setattr(
        "warmstart.modalities.modality.installed_version", lambda name: f"{name} of later"
    )
    names.append(IMAGE.decoder(wants(13, ranges)))
    assert len(set(names)) == len(names)


# ---- at a thumbnail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (npy(BANDED[:30]), "array"),
        (npy(np.moveaxis(BANDED[:30], 2, 0)), "array"),
        (tiff(BANDED[:30]), "TIFF"),
    ],
)
def test_a_thumbnail_at_bands(payload, kind):
    pixels = scale_bands(BANDED[:30], ((1000.0, 3000.0),) * 13, "x")
    seen = unpack(make_thumbnail(payload, as_picture(pixels))[None])
    assert (seen.width[0], seen.height[0], seen.format[0]) == (40, 30, kind)
    assert seen.n_bytes[0] == len(payload)
    small = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    assert (seen.colour[0] == unpack(make_thumbnail(payload, small)[None]).colour[0]).all()


def test_pictures_of_what_was_opened():
    assert as_picture(np.zeros((4, 5, 2), np.uint8)).mode == "L"
    assert as_picture(np.zeros((4, 5, 13), np.uint8)).mode == "RGB"
    clear = IMAGE.open(encoded("RGBA", (9, 9, 9, 0)), "x", wants(4))
    assert as_picture(clear).getpixel((0, 0)) == (255, 255, 255)
    picture = IMAGE.open(spotted("RGB"), "x", wants(3))
    assert as_picture(picture) is picture
    assert as_picture(np.zeros((4, 5, 13), np.uint8)).size == (5, 4)


# ---- where such files are found -----------------------------------------------------------


@pytest.mark.parametrize(("write", "suffix"), [(npy, ".npy"), (tiff, ".tif"), (tiff, ".TIFF")])
def test_folders_of_bands_are_read(tmp_path, write, suffix):
    collection = drain(read(fill_bands(tmp_path / "fields", write=write, suffix=suffix, n=3)))
    assert collection.record.classes == ("crop0", "crop1")
    assert len(collection.record.examples) == 6
    assert count_bands(collection.load, collection.record.examples) == 13


def test_arrays_of_bands_keep_their_values():
    values = np.stack([training_data(n % 2, n) for n in range(6)])
    collection = drain(read((values, ["a", "b"] * 3)))
    examples = collection.record.examples
    assert count_bands(collection.load, examples) == 13
    np.testing.assert_array_equal(decode_bands(collection.load("3"), "3"), values[3])
    files = {str(n): npy(values[n]) for n in range(6)}
    assert band_ranges(collection.load, examples) == band_ranges(*source(files))
