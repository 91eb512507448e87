"""Poses, neighbours and near copies of fixed pictures; cues of clips. As `test_pinned.py`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import golden
from warmstart.data import near_duplicates
from warmstart.evidence import spurious

N = 60
LABELS = np.arange(N) % 3
NAMES = ("ant", "bee", "fly")
AWAY = 10.0  # added where numbers lie around 0, so that rounding in float32 does not count


def pictures(n, seed=0, side=64):
    """Blurred squares of whole numbers, the same on each machine. Shapes: (n, side, side)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, side // 4, side // 4))
    fine = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)
    for axis in (1, 2):
        fine = sum(np.roll(fine, step, axis) for step in (-2, -1, 0, 1, 2)) // 5
    return fine.astype(np.uint8)


def squeezed(images, left, right):
    """Cut at both sides and stretched to the old width."""
    side = images.shape[2]
    places = left + np.arange(side) * (side - left - right) // side
    return images[:, :, places]


def of_details():
    grey = pictures(2)
    return [AWAY + near_duplicates.details(grey, side)[:, 3::13, 5::17] for side in (32, 64)]


def of_warps():
    small = near_duplicates.details(pictures(3), 32)
    poses = np.array([(1, 0, 1, 0), (0.9, 0.05, 1.1, -0.1), (1.1, -0.2, 0.95, 0)], np.float32)
    moved, inside = near_duplicates.warp(small, poses)
    likeness = (
        near_duplicates.correlate(small, moved, inside),
        near_duplicates.correlate(moved, -small[::-1], inside),
    )
    three, _ = near_duplicates.warp(np.stack([small, -small], axis=-1), poses)
    return (
        AWAY + moved[:, ::9, ::11],
        inside.sum((1, 2)),
        [AWAY + one for one in likeness],
        AWAY + three[:, 5, 7],
    )


def of_registered():
    grey = pictures(3)
    other = np.stack([squeezed(grey, 3, 0)[0], squeezed(grey, 2, 2)[1], pictures(3, 5)[2]])
    first, second = near_duplicates.details(grey, 64), near_duplicates.details(other, 64)
    still = np.tile(near_duplicates.INITIAL_POSES[:1], (3, 1))
    result = [near_duplicates.register(first, second, still, steps) for steps in (0, 1, 6)]
    return [(AWAY + poses, likeness) for poses, likeness in result], near_duplicates.INITIAL_POSES


def units(n, d, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def of_nearest():
    """Among all; in cells, of which some are cut again; from two sides."""
    few, many, other = units(40, 6, 0), units(500, 8, 1), units(500, 8, 2)
    result = [
        near_duplicates.nearest(few, [few], 3),
        near_duplicates.nearest(few, [few, few[::-1].copy()], 2),
    ]
    for cell in (400, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(near_duplicates, "EXACT", 100)
            patch.setattr(near_duplicates, "CELL", cell)
            patch.setattr(near_duplicates, "_ROWS", 64)
            result += [
                near_duplicates.nearest(many, [many], 4)[::10],
                near_duplicates.nearest(many, [many, other], 4)[::10],
            ]
    return [np.sort(rows, axis=1) for rows in result]


def seen():
    """Twelve pictures, and copies: mirrored, cut at a side, all round, darker, in other paint."""
    grey, colour = pictures(12), np.stack([pictures(12, s, 16) for s in (1, 2, 3)], axis=-1)
    dark = grey[3:4] // 2 + 40
    copies = [grey[:1, :, ::-1], squeezed(grey[1:2], 3, 0), squeezed(grey[2:3], 2, 2), dark]
    tints = [
        colour[:1, :, ::-1],
        colour[1:2],
        colour[2:3],
        colour[3:4] // 2,
        colour[4:5, ..., ::-1],
    ]
    copies += [grey[4:5], squeezed(grey[5:6, :, ::-1], 0, 3), grey[6:7]]
    tints += [colour[5:6, :, ::-1], colour[6:7]]
    return SimpleNamespace(
        grey=np.concatenate([grey, *copies]), colour=np.concatenate([colour, *tints])
    )


def of_twins():
    glances = seen()
    rng = np.random.default_rng(4)
    features = rng.normal(size=(len(glances.grey), 700)).astype(np.float32)
    features[-1] = features[6]
    made = near_duplicates.unit_features(features)
    return (
        near_duplicates.find_near_duplicates(glances),
        near_duplicates.find_near_duplicates(glances, made, 0.97),
        np.sort(near_duplicates.candidates(glances.grey[:6], made[:6]), axis=1),
        made.shape,
        AWAY + made[::5, ::60],
        near_duplicates.unit_features(features[:0]).shape,
        [near_duplicates.thin(np.arange(w)[None]).shape for w in (255, 256, 511, 512, 1280)],
    )


def clips(**given):
    """Clips of different length in ms, and of one sample rate."""
    length = np.random.default_rng(11).integers(400, 3000, N)
    made = {
        "width": length,
        "height": np.full(N, 16_000),
        "is_colour": np.zeros(N, bool),
        "n_bytes": length * 32,
        "format": np.full(N, "WAV"),
    }
    return SimpleNamespace(**(made | given))


def of_clips():
    first = LABELS == 0
    rate = clips(height=np.where(first, 8000, 16_000))
    length = clips(width=np.where(first, 3000, 1000) + np.arange(N))
    kinds = {
        "none": clips(),
        "rate": rate,
        "length": length,
        "format": clips(format=np.where(first, "FLAC", "WAV")),
        "two": clips(height=np.where(first, 8000, np.where(LABELS == 1, 16_000, 44_100))),
    }
    truth = np.stack([first, LABELS == 1, np.arange(N) < 20, np.arange(N) < 1], 1).astype(float)
    result = {}
    for name, some in kinds.items():
        rng = np.random.default_rng(12)
        result[name] = (
            spurious.metadata_leaks(some, LABELS, NAMES, rng, is_sound=True),
            spurious.metadata_leaks_multilabel(some, truth, (*NAMES, "one"), rng, is_sound=True),
            spurious.metadata_leaks_regression(some, some.width * 1.0, rng, is_sound=True),
        )
    return result


def of_grey():
    """Of one class half are grey: a share of it, and another elsewhere."""
    colour = ~((LABELS == 0) & (np.arange(N) < 54)) & (np.arange(N) % 29 != 1)
    some = SimpleNamespace(
        width=np.full(N, 640),
        height=np.full(N, 480),
        is_colour=colour,
        n_bytes=np.full(N, 9000),
        format=np.full(N, "JPEG"),
    )
    rng = np.random.default_rng(13)
    codes = np.array([0, 0, 1, 1, 2, 3, 3, 3])
    numbers = np.array([1.0, 2, 9, 8, 5, 4, 4.5, 5])
    return (
        spurious.metadata_leaks(some, LABELS, NAMES, rng),
        spurious.metadata_leaks(some, (LABELS > 0) * 1, NAMES[:2], rng),
        spurious.metadata_leaks_regression(some, 3.0 * ~colour + rng.normal(size=N) * 0.9, rng),
        spurious.explained_variance(codes, numbers),
        spurious.explained_variance(codes, numbers * 0),
        spurious.informedness(codes, np.array([0, 0, 1, 1, 2, 2, 2, 0]), 4),
    )


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
