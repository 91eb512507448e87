import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detailed_images import glances, training_data
from warmstart.data.near_duplicates import INITIAL_POSES, correlate, details, register, warp

STILL = np.array([[1, 0, 1, 0]], np.float32)


def grey(seed=0):
    return glances([training_data(seed)]).grey


def test_the_pose_at_rest_changes_nothing():
    x = details(grey(), 64)
    moved, inside = warp(x, STILL)
    np.testing.assert_allclose(moved, x, atol=1e-3)
    assert inside.min() == 1


def test_channels_move_like_grey():
    x = details(grey(), 32)
    pose = np.array([[0.95, 0.05, 1.05, -0.02]], np.float32)
    three, _ = warp(np.stack([x, 2 * x, -x], axis=-1), pose)
    np.testing.assert_allclose(three[..., 1], 2 * warp(x, pose)[0], atol=1e-3)


@given(st.floats(0.93, 1.07), st.floats(-0.05, 0.05), st.floats(0.93, 1.07), st.floats(-0.05, 0.05))
@settings(max_examples=20)
def test_a_moved_picture_is_found_where_it_was_put(across, right, down, up):
    x = details(grey(), 64)
    pose = np.array([[across, right, down, up]], np.float32)
    target, inside = warp(x, pose)
    result, likeness = register(target, x, STILL.copy(), steps=12)
    assert likeness[0] > 0.95
    np.testing.assert_allclose(result, pose, atol=0.02)
    assert correlate(target, warp(x, result)[0], inside)[0] > 0.95


def test_brightness_and_contrast_do_not_count_but_sign_does():
    x = details(grey(), 32)
    ones = np.ones_like(x)
    assert correlate(x, 0.3 * x + 50, ones)[0] == pytest.approx(1, abs=0.01)
    assert correlate(x, -x, ones)[0] == pytest.approx(-1, abs=0.01)


def test_blank_pictures_are_alike_to_nothing():
    blank = details(np.full((1, 64, 64), 200, np.uint8), 64)
    noisy = details(np.random.default_rng(0).integers(199, 202, (1, 64, 64)).astype(np.uint8), 64)
    assert correlate(blank, blank, np.ones_like(blank))[0] == pytest.approx(0, abs=1e-3)
    assert register(noisy, blank, STILL.copy(), 3)[1][0] < 0.5


def test_starts_come_in_pairs_of_opposites():
    assert len(np.unique(INITIAL_POSES, axis=0)) == len(INITIAL_POSES) == 11
