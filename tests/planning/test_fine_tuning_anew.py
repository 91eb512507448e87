"""How long a network is trained from nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.planning import fine_tuning, rules


@pytest.mark.parametrize(
    ("n", "images"),
    [
        (2, 12_000),
        (100, 12_000),
        (133, 15_960),
        (134, 16_000),
        (800, 16_000),
        (801, 16_020),
        (1600, 32_000),
        (10**6, 32_000),
    ],
)
def test_images_passed_by_hand(n, images):
    assert fine_tuning.passes(n) == images


@given(st.integers(1, 10**7))
def test_never_less_than_when_tuning_and_never_less_for_more_examples(n):
    assert fine_tuning.passes(n) >= 2 * rules.passes(n)
    assert fine_tuning.passes(n) <= fine_tuning.passes(n + 1)
    assert fine_tuning.passes(n) >= 12_000
