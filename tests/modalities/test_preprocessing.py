"""One resampling with a box equals resizing first and cropping then."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from warmstart.errors import DataError, ModelError
from warmstart.modalities.image import IMAGE, crop_box, decode, prepare
from warmstart.records.inputs import Preprocessing

REAL = Path(__file__).parents[2].parent / "shared/data/images/trashnet"
FILTERS = {"bicubic": 3, "bilinear": 2, "nearest": 0, "lanczos": 1}


def wants(size=(224, 224), resize=256, channels=3, **options) -> Preprocessing:
    return Preprocessing(
        size=size, resize=resize, mean=(0.5,) * channels, std=(0.5,) * channels, **options
    )


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
    p = wants((size, size), size + margin, interpolation=interpolation, squash=squash)
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
    box = crop_box((width, height), wants((crop_h, crop_w), resize, squash=squash))
    left, top, right, bottom = box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # Off centre by at most one pixel of the resized picture.
    assert abs(left - (width - right)) <= (right - left) / crop_w * 1.001
    assert abs(top - (height - bottom)) <= (bottom - top) / crop_h * 1.001


@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_000), (1, 1), (3, 2), (5000, 40)])
@pytest.mark.parametrize("squash", [False, True])
def test_extreme_and_tiny_images(size, squash):
    pixels = prepare(Image.new("RGB", size, (10, 20, 30)), wants(squash=squash))
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 20, 30)).all()


def test_a_crop_wider_than_the_resize_is_filled():
    assert prepare(smooth(50, 50), wants((30, 90), 20)).shape == (30, 90, 3)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_memory_order(mode, channels):
    image = smooth(60, 50).convert(mode)
    pixels = prepare(image, wants((20, 30), 32, channels))
    assert (pixels.shape, pixels.dtype) == ((20, 30, channels), np.uint8)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    if mode == "L" and channels == 3:
        assert (pixels == pixels[..., :1]).all()


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ModelError, match="takes 4 channels"):
        prepare(smooth(9, 9), wants(channels=4))


def test_nearest_keeps_the_values():
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    pixels = prepare(image, wants((4, 4), 4, 1, interpolation="nearest"))
    assert set(np.unique(pixels)) == {0, 255}


def test_load_image_names_the_file():
    with pytest.raises(DataError, match=r"^cat\.jpg is not an image$"):
        IMAGE.encode(b"hello", "cat.jpg", wants())


def test_draft_moves_a_photograph_by_little():
    buffer = io.BytesIO()
    smooth(1600, 1200).save(buffer, "JPEG", quality=95)
    fast = IMAGE.encode(buffer.getvalue(), "x", wants())
    slow = prepare(decode(buffer.getvalue(), "x"), wants())
    assert np.abs(fast.astype(int) - slow).mean() < 1


@pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not on this machine")
def test_real_photographs_equal_two_steps():
    for path in sorted(REAL.rglob("*.jpg"))[:20]:
        with Image.open(path) as image:
            slow = two_steps(image.convert("RGB"), wants())
        fast = IMAGE.encode(path.read_bytes(), path.name, wants())
        difference = np.abs(fast.astype(int) - slow)
        # Pillow may go down before across where that is less work, and clips in between.
        assert (difference > 1).mean() < 0.002
        assert difference.mean() < 0.25
