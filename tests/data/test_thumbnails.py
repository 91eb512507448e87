"""A thumbnail keeps what it says, whatever the file, and costs next to nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from warmstart.data.arrays import encode
from warmstart.data.thumbnails import WIDTH, make_thumbnail, plain_features, unpack
from warmstart.modalities.image import decode


def saved(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width=300, height=200, seed=0):
    """Smooth coloured blobs: something that survives JPEG."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def seen(payload, draft=None):
    return unpack(make_thumbnail(payload, decode(payload, "x", draft=draft))[None])


def test_a_row_is_small_and_of_fixed_width():
    row = make_thumbnail(saved(photo()), photo())
    assert row.shape == (WIDTH,)
    assert row.dtype == np.uint8
    assert WIDTH < 6000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_figures_of_the_file(kind):
    payload = saved(photo(50, 30), kind)
    result = seen(payload)
    assert (result.width[0], result.height[0]) == (50, 30)
    assert result.format[0] == kind
    assert result.n_bytes[0] == len(payload)
    assert result.is_colour[0]


def test_a_jpeg_with_a_second_picture_inside_is_a_jpeg():
    """Telephones add a brightness map or a preview; Pillow calls such a file MPO."""
    first, second = (Image.new("RGB", (60, 40), colour) for colour in ("red", "blue"))
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second])
    payload = file.getvalue()
    seen = unpack(make_thumbnail(payload, decode(payload, "a.jpg"))[None])
    assert (seen.width[0], seen.height[0], seen.format[0]) == (60, 40, "JPEG")


def test_a_draft_reports_the_size_of_the_original():
    payload = saved(photo(1600, 1200))
    assert decode(payload, "x", draft=64).width < 1600
    small, full = seen(payload, draft=64), seen(payload)
    assert (small.width[0], small.height[0]) == (1600, 1200)
    assert np.abs(small.grey.astype(int) - full.grey).mean() < 2


def test_a_picture_that_was_turned_is_measured_upright():
    payload = saved(photo(300, 200), exif=turned())
    result = seen(payload)
    assert (result.width[0], result.height[0]) == (200, 300)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_arrays_have_sizes_too():
    result = seen(encode(np.zeros((20, 40), np.uint8)))
    assert (result.width[0], result.height[0], result.format[0]) == (40, 20, "array")
    assert not result.is_colour[0]


def test_grey_saved_as_colour_is_grey_and_one_coloured_spot_is_not():
    grey = photo().convert("L").convert("RGB")
    assert not seen(saved(grey)).is_colour[0]
    grey.paste("red", (100, 100, 160, 150))
    assert seen(saved(grey)).is_colour[0]


def test_the_border_tells_sides_and_layers_apart():
    image = Image.new("RGB", (400, 200), (0, 0, 0))
    image.paste((200, 0, 0), (0, 0, 400, 2))  # the outermost 1 % at the top
    image.paste((0, 0, 200), (0, 190, 400, 200))  # more than the ring at the bottom
    border = seen(saved(image, "PNG")).border[0]
    top, right, bottom, left = border[0, :, 4:-4].astype(int).mean(axis=1)
    assert top[0] > 190
    assert border[1, 0, 8, 0] < 20  # not in the inner layer
    assert bottom[2] > 190
    assert border[1, 2, 8, 2] > 190
    assert right[:3].max() == left[:3].max() == 0


def test_tiny_pictures_have_a_thumbnail():
    result = seen(saved(Image.new("L", (3, 1), 77), "PNG"))
    assert result.grey.min() == result.grey.max() == 77


def test_plain_features_are_distinguished_by_what_they_describe():
    rows = [make_thumbnail(saved(photo(seed=s), "PNG"), photo(seed=s)) for s in (0, 0, 1)]
    flat = Image.new("RGB", (9, 9), (10, 20, 30))
    rows.append(make_thumbnail(saved(flat, "PNG"), flat))
    features = plain_features(unpack(np.stack(rows)))
    assert {name: x.shape for name, x in features.items()} == {
        "pixels": (4, 768),
        "colours": (4, 64),
        "edges": (4, 512),
    }
    for values in features.values():
        assert np.isfinite(values).all()
        assert np.array_equal(values[0], values[1])
        assert not np.allclose(values[0], values[2])
    assert features["edges"][3].max() == 0
    assert np.allclose((features["colours"] ** 2).sum(axis=1), 1)
