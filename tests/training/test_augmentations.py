"""Drawn batches and varied pictures against what they promise."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import SCHEDULE
from warmstart.training.augmentations import (
    Augmentations,
    _crop_box,
    augment,
    augmentation_numbers,
    draw_batches,
    numbered_augmentation,
)

CROP = 0.35
ALL = Augmentations(CROP, True, 0.1)
CONTENT = hashlib.sha256(b"a picture").hexdigest()


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(channels=3, high=24, wide=32, seed=0):
    return rng(seed).integers(0, 256, (high, wide, channels), dtype=np.uint8)


@given(n=st.integers(1, 40), batch=st.integers(1, 50), n_steps=st.integers(0, 12))
def test_visits_count_how_often_a_row_had_come(n, batch, n_steps):
    seen = np.zeros(n, int)
    for rows, visits in draw_batches(n, batch, n_steps, rng()):
        for row, visit in zip(rows, visits, strict=True):
            assert visit == seen[row]
            seen[row] += 1
    assert seen.sum() == batch * n_steps


@settings(max_examples=60)
@given(
    channels=st.integers(1, 13),
    high=st.integers(1, 40),
    wide=st.integers(1, 40),
    crop=st.floats(0.01, 1),
    flip=st.booleans(),
    colour=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_a_augmentation_has_the_shape_and_the_type_of_its_picture(
    channels, high, wide, crop, flip, colour, seed
):
    image = picture(channels, high, wide, seed)
    before = image.copy()
    found = augment(image, Augmentations(crop, flip, colour), rng(seed))
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(image, before)
    if not colour:
        assert (found.min((0, 1)) >= image.min((0, 1))).all()
        assert (found.max((0, 1)) <= image.max((0, 1))).all()


def test_nothing_varies_where_nothing_is_asked_for():
    image, generator = picture(), rng()
    assert augment(image, Augmentations(1.0, False), generator) is image
    assert numbered_augmentation(image, CONTENT, 3, Augmentations(1.0, False), seed=0) is image
    assert generator.integers(1 << 30) == rng().integers(1 << 30)  # and nothing was drawn


def test_a_mirrored_picture_is_the_mirror_and_half_are():
    image, generator = picture(), rng()
    found = [augment(image, Augmentations(1.0, True), generator) for _ in range(400)]
    same = np.array([np.array_equal(made, image) for made in found])
    mirrored = np.array([np.array_equal(made, image[:, ::-1]) for made in found])
    assert (same ^ mirrored).all()
    assert 160 < mirrored.sum() < 240  # four standard deviations of a fair coin


def test_a_sound_is_moved_and_silence_comes_in():
    image, generator = picture(1, 8, 40) | 1, rng()
    models = []
    for _ in range(200):
        made = augment(image, Augmentations(1.0, False, shift=0.25), generator)
        filled = np.flatnonzero(made[..., 0].any(axis=0))
        by = filled[0] if filled[0] else filled[-1] - 39
        np.testing.assert_array_equal(made, np.roll(image, by, axis=1) * (made > 0))
        models.append(by)
    assert (min(models), max(models)) == (-10, 10)


def test_a_band_of_pitches_and_one_of_time_are_hidden():
    image, generator = np.zeros((40, 20, 1), np.uint8), rng()
    image[:, ::2] = 200
    sizes = []
    for _ in range(200):
        hidden = augment(image, Augmentations(1.0, False, mask=0.5), generator)[..., 0] == 100
        rows, columns = hidden.all(axis=1), hidden.all(axis=0)
        np.testing.assert_array_equal(hidden, rows[:, None] | columns)
        for line in (rows, columns):
            assert np.abs(np.diff(line.astype(int))).sum() <= 2  # in one piece
        sizes.append((rows.sum(), columns.sum()))
    assert np.max(sizes, axis=0).tolist() == [20, 10]


SIDE = 224


def windows(augmentations, n=400, high=SIDE, wide=SIDE):
    """What each augmentation shows, read off two ramps: middle and length of both sides, 0..1.

    A length is below 0 where the augmentation is mirrored.
    """
    ramps = np.zeros((high, wide, 2), np.uint8)
    ramps[..., 0] = np.linspace(0, 255, wide).round()
    ramps[..., 1] = np.linspace(0, 255, high).round()[:, None]
    generator, found = rng(), []
    for _ in range(n):
        made = augment(ramps, augmentations, generator) / 255
        spans = []
        for line in (made[..., 0].mean(0), made[..., 1].mean(1)):
            at = np.arange(len(line)) - (len(line) - 1) / 2
            inner = slice(len(line) // 8, -len(line) // 8)  # what lies beyond a border is bent
            slope, middle = np.polyfit(at[inner], line[inner], 1)
            spans += [middle, slope * (len(line) - 1)]
        found.append(spans)
    return np.array(found).T


NEAR = 1.5 / SIDE  # whole pixels at both ends, and levels of 1 in 255


def test_a_crop_lies_within_the_picture_and_is_of_the_promised_size_and_shape():
    x, wide, y, high = windows(Augmentations(CROP, True))
    wide, mirrored = np.abs(wide), wide < 0
    for middle, length in ((x, wide), (y, high)):
        assert (middle - length / 2 > -NEAR).all()
        assert (middle + length / 2 < 1 + NEAR).all()
    area, shape = wide * high, wide / high
    assert CROP - 2 * NEAR < area.min() < CROP + 0.05
    assert 0.95 < area.max() < 1 + 2 * NEAR
    assert 3 / 4 - 3 * NEAR < shape.min() < 0.8
    assert 1.25 < shape.max() < 4 / 3 + 3 * NEAR
    assert 0.4 < mirrored.mean() < 0.6
    uniform = (area - CROP) / (1 - CROP)  # within what 400 draws of a uniform number give
    assert np.abs(np.sort(uniform) - (np.arange(400) + 0.5) / 400).max() < 1.63 / 20


def test_a_crop_may_begin_at_every_pixel_where_it_fits():
    generator, begins = rng(), {}
    for _ in range(2000):
        top, left, height, width = _crop_box(6, 5, CROP, generator)
        begins.setdefault(("top", 6 - height), set()).add(top)
        begins.setdefault(("left", 5 - width), set()).add(left)
    assert {("top", 0), ("top", 2), ("left", 0), ("left", 1)} <= begins.keys()
    for (_, most), found in begins.items():
        assert found == {*range(most + 1)}


@pytest.mark.parametrize("seed", range(2))
def test_colours_change_as_they_are_defined(seed):
    image = picture(seed=seed) // 2 + 64  # far from black and white
    found = augment(image, Augmentations(1.0, False, 0.1), rng(seed))
    b, c, s = rng(seed).uniform(0.9, 1.1, 3)
    grey = image @ np.array([0.299, 0.587, 0.114])
    slow = s * image + (1 - s) * grey[..., None]
    slow = b * (c * slow + (1 - c) * grey.mean())
    assert np.abs(found - slow).max() <= 0.501


@pytest.mark.parametrize("channels", [3, 13])
def test_a_augmentation_is_the_same_with_any_number_of_threads(channels):
    image = picture(channels, 300, 300)

    def make(number):
        return numbered_augmentation(image, CONTENT, number, ALL, 0)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [make(number) for number in range(1, 9)]
        torch.set_num_threads(4)
        with ThreadPoolExecutor(3) as pool:
            together = [*pool.map(make, range(1, 9))]
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_augmentation_follows_from_seed_content_and_number(channels):
    image, other = picture(channels), hashlib.sha256(b"another").hexdigest()
    keys = [(s, c, n) for s in (0, 1) for c in (CONTENT, other) for n in (1, 2, 3)]
    made, again = (
        {key: numbered_augmentation(image, key[1], key[2], ALL, key[0]).tobytes() for key in order}
        for order in (keys, keys[::-1])
    )
    assert made == again
    assert len({*made.values()}) == len(keys)
    assert numbered_augmentation(image, CONTENT, 0, ALL, 0) is image


def test_policies_differ_where_augmentations_do():
    settings_of = [
        ALL,
        replace(ALL, crop=0.36),
        replace(ALL, flip=False),
        replace(ALL, colour=0.0),
        replace(ALL, crop=0.35 + 1e-12),
        Augmentations(1, False),
    ]
    assert len({augmentations.policy for augmentations in settings_of}) == len(settings_of)
    assert Augmentations(1, True).policy == Augmentations(1.0, True, 0).policy
    assert Augmentations(0.35, True, 0.1).policy == "crop=0.35 flip=1 colour=0.1 bilinear v1"
    sounds = {
        Augmentations(1.0, False, shift=a, mask=b).policy for a in (0.0, 0.1) for b in (0.0, 0.2)
    }
    assert len(sounds) == 4


def test_augmentations_load_torchvision_only_when_they_are_made():
    code = "import sys, warmstart.training.augmentations; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PLAIN = replace(SCHEDULE, batch_size=8)
VARIED = [{"crop": 0.5}, {"flip": True}, {"color_jitter": 0.1}]


@given(
    n=st.integers(1, 30),
    batch=st.integers(1, 16),
    augmentations=st.integers(0, 5),
    how=st.sampled_from(VARIED),
    seed=st.integers(0, 99),
)
def test_each_image_shows_its_augmentations_in_turn(n, batch, augmentations, how, seed):
    chosen = replace(PLAIN, augmentations=augmentations, **how)
    seen: dict[int, list[int]] = {}
    for rows, visits in draw_batches(n, batch, 12, np.random.default_rng(seed)):
        for row, number in zip(rows, augmentation_numbers(visits, chosen), strict=True):
            seen.setdefault(int(row), []).append(int(number))
    for numbers in seen.values():
        turn = [
            1 + visit % augmentations if augmentations else 1 + visit
            for visit in range(len(numbers))
        ]
        assert numbers == turn
