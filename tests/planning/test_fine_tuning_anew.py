"""How long a network is trained from scratch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.planning import fine_tuning, rules


@pytest.mark.parametrize(
    ("n", "samples"),
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
def test_samples_seen_by_hand(n, samples):
    assert fine_tuning.samples_from_scratch(n) == samples


@given(st.integers(1, 10**7))
def test_never_fewer_than_in_fine_tuning_and_never_fewer_for_more_examples(n):
    assert fine_tuning.samples_from_scratch(n) >= 2 * rules.samples_seen(n)
    assert fine_tuning.samples_from_scratch(n) <= fine_tuning.samples_from_scratch(n + 1)
    assert fine_tuning.samples_from_scratch(n) >= 12_000
