"""Drawn batches and varied pictures against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from warmstart.training.views import Views, draw_batches, vary

CROP = 0.35


def rng(seed=0):
    return np.random.default_rng(seed)


def pictures(n=40, channels=3, high=12, wide=16, seed=0):
    return torch.rand(n, channels, high, wide, generator=torch.Generator().manual_seed(seed))


# ---- batches -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (7, 7), (3, 8), (1, 2), (100, 32)])
def test_every_row_comes_once_before_any_comes_again(n, batch):
    drawn = [*draw_batches(n, batch, 30, rng())]
    assert [len(rows) for rows in drawn] == [batch] * 30
    flat = np.concatenate(drawn)
    for start in range(0, len(flat) - n + 1, n):
        assert sorted(flat[start : start + n]) == [*range(n)]


def test_passes_are_reshuffled_and_follow_from_the_generator():
    drawn = [*draw_batches(20, 20, 3, rng())]
    assert not np.array_equal(drawn[0], drawn[1])
    again = [*draw_batches(20, 20, 3, rng())]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    other = [*draw_batches(20, 20, 3, rng(1))]
    assert not np.array_equal(drawn[0], other[0])


# ---- views ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("crop", [1.0, 0.35])
def test_a_view_has_the_shape_the_type_and_the_range_of_its_picture(channels, flip, crop):
    images = pictures(channels=channels)
    before = images.clone()
    found = vary(images, Views(crop, flip), rng())
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    low, high = images.amin((1, 2, 3)), images.amax((1, 2, 3))
    assert (found.amin((1, 2, 3)) >= low - 1e-6).all()
    assert (found.amax((1, 2, 3)) <= high + 1e-6).all()
    assert torch.equal(images, before)


def test_nothing_varies_where_nothing_is_asked_for():
    images, generator = pictures(), rng()
    assert vary(images, Views(1.0, False), generator) is images
    assert generator.integers(1 << 30) == rng().integers(1 << 30)  # and nothing was drawn


def test_a_mirrored_picture_is_the_mirror_and_half_are():
    images = pictures(400)
    found = vary(images, Views(1.0, True), rng())
    same = (found - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (found - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert 160 < mirrored.sum() < 240  # four standard deviations of a fair coin


@pytest.mark.parametrize("views", [Views(1.0, True), Views(0.35, False), Views(0.35, True)])
def test_views_follow_from_the_generator(views):
    images = pictures()
    one, again, other = (vary(images, views, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def windows(views, n=600, side=64):
    """Where each view looks, read off two ramps: left, right, top, bottom in 0..1, and mirrored."""
    at = (torch.arange(side) + 0.5) / side
    ramps = torch.stack([at.expand(side, side), at[:, None].expand(side, side)])
    found = vary(ramps.expand(n, 2, side, side), views, rng()).double()
    # A pixel from the border sampling may stand on it; the middle is exact.
    inner = slice(side // 4, 3 * side // 4)
    spans = []
    for channel, dim in ((0, 2), (1, 1)):
        line = found[:, channel].mean(3 - dim)[:, inner]
        slope = (line[:, -1] - line[:, 0]) / (line.shape[1] - 1)
        bent = (line.diff(dim=1) - slope[:, None]).abs().max()
        assert bent < 1e-6
        middle = (line[:, -1] + line[:, 0]) / 2
        spans.append((middle, slope * side))
    (x, wide), (y, high) = spans
    return x, wide, y, high


def test_a_crop_lies_within_the_picture_and_is_of_the_promised_size_and_shape():
    x, wide, y, high = windows(Views(CROP, True))
    wide, mirrored = wide.abs(), wide < 0
    for middle, length in ((x, wide), (y, high)):
        assert (middle - length / 2 > -1e-6).all()
        assert (middle + length / 2 < 1 + 1e-6).all()
    area, shape = wide * high, wide / high
    assert (area > CROP - 1e-6).all()
    assert (area < 1 + 1e-6).all()
    assert area.min() < CROP + 0.05
    assert area.max() > 0.9
    assert (shape > 3 / 4 - 1e-6).all()
    assert (shape < 4 / 3 + 1e-6).all()
    assert 0.4 < mirrored.double().mean() < 0.6


def test_crops_lie_everywhere():
    x, wide, y, high = windows(Views(CROP, False))
    for middle, length in ((x, wide), (y, high)):
        place = ((middle - length / 2) / (1 - length))[length < 0.9]  # 0: at the left, 1: the right
        assert place.min() < 0.05
        assert place.max() > 0.95
        assert 0.4 < place.mean() < 0.6


@pytest.mark.parametrize("crop", [0.8, 0.95])
def test_a_mild_crop_keeps_what_it_promises(crop):
    _, wide, _, high = windows(Views(crop, False))
    assert (wide * high).min() > crop - 1e-6


def test_a_border_that_is_no_part_of_the_picture_never_shows():
    """What lies outside would repeat the border; crops of a frame show it no wider than it is."""
    side = 32
    images = torch.zeros(300, 1, side, side)
    images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1] = 1, 1, 1, 1
    found = vary(images, Views(CROP, True), rng())
    widest = 1 / 0.35**0.5 / (3 / 4) ** 0.5 + 1.5  # a pixel of the frame, enlarged and smoothed
    middle = found[:, 0, side // 2]
    assert ((middle > 0.5).sum(1) <= 2 * widest).all()
    inside = found[:, 0, 8:-8, 8:-8]
    assert inside.max() < 0.5
