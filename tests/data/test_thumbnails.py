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
    row = make_thumbnail(payload, decode(payload, "x", draft=draft))
    assert (row.shape, row.dtype) == ((WIDTH,), np.uint8)
    return unpack(row[None])


def exif_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


COLOURS = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]


@pytest.mark.parametrize(
    ("payload", "figures"),
    [
        *(
            (saved(photo(50, 30), kind), (50, 30, kind, True))
            for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
        ),
        # Telephones add a brightness map or a preview; Pillow calls such a file MPO.
        (
            saved(COLOURS[0], "MPO", save_all=True, append_images=COLOURS[1:]),
            (60, 40, "JPEG", True),
        ),
        (saved(photo(), exif=exif_turned()), (200, 300, "JPEG", True)),  # measured upright
        (encode(np.zeros((20, 40), np.uint8)), (40, 20, "array", False)),
        (saved(photo().convert("L").convert("RGB")), (300, 200, "JPEG", False)),
        (saved(Image.new("L", (3, 1), 77), "PNG"), (3, 1, "PNG", False)),
    ],
)
def test_figures_of_the_file(payload, figures):
    result = seen(payload)
    assert (
        result.width[0],
        result.height[0],
        result.format[0],
        result.is_colour[0],
    ) == figures
    assert result.n_bytes[0] == len(payload)


def test_a_draft_reports_the_size_of_the_original():
    payload = saved(photo(1600, 1200))
    assert decode(payload, "x", draft=64).width < 1600
    small, full = seen(payload, draft=64), seen(payload)
    assert (small.width[0], small.height[0]) == (1600, 1200)
    assert np.abs(small.grey.astype(int) - full.grey).mean() < 2


def test_one_coloured_spot_makes_a_picture_colour():
    grey = photo().convert("L").convert("RGB")
    grey.paste("red", (100, 100, 160, 150))
    assert seen(saved(grey)).is_colour[0]


def test_the_border_tells_sides_and_layers_apart():
    image = Image.new("RGB", (400, 200), (0, 0, 0))
    image.paste((200, 0, 0), (0, 0, 400, 2))  # the outermost 1 % at the top
    image.paste((0, 0, 200), (0, 190, 400, 200))  # more than the ring at the bottom
    border = seen(saved(image, "PNG")).border[0]
    top, right, bottom, left = border[0, :, 4:-4].astype(int).mean(axis=1)
    assert min(top[0], bottom[2], border[1, 2, 8, 2]) > 190
    assert border[1, 0, 8, 0] < 20  # not in the inner layer
    assert right[:3].max() == left[:3].max() == 0


def test_plain_features_are_distinguished_by_what_they_describe():
    images = [photo(), photo(), photo(seed=1), Image.new("RGB", (9, 9), (10, 20, 30))]
    rows = [make_thumbnail(saved(image, "PNG"), image) for image in images]
    features = plain_features(unpack(np.stack(rows)))
    shapes = {name: x.shape for name, x in features.items()}
    assert shapes == {"pixels": (4, 768), "colours": (4, 64), "edges": (4, 512)}
    for values in features.values():
        assert np.isfinite(values).all()
        assert np.array_equal(values[0], values[1])
        assert not np.allclose(values[0], values[2])
    assert features["edges"][3].max() == 0
    assert np.allclose((features["colours"] ** 2).sum(axis=1), 1)
