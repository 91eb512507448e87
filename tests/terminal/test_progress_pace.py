"""The time left: exact at a steady speed, smooth at an uneven one."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.terminal.progress import SOONEST_S, ProgressRate

SPEEDS = st.floats(0.01, 1e4)


def play(speeds, of, gap=1.0):
    """The pace after running at each of these speeds for `gap` seconds."""
    pace, at, step = ProgressRate(at=0.0), 0.0, 0.0
    for speed in speeds:
        at, step = at + gap, step + speed * gap
        pace.see(at, step, of)
        yield at, step, pace


@given(speed=SPEEDS, gap=st.floats(0.05, 100), n=st.integers(1, 40))
def test_a_steady_speed_gives_the_exact_time(speed, gap, n):
    of = 1000 * speed * gap
    for at, step, pace in play([speed] * n, of, gap):
        if at < SOONEST_S:
            assert pace.left(at) is None
        elif pace.counted >= SOONEST_S:
            assert pace.left(at) == pytest.approx((of - step) / speed)
            assert pace.left(at + 2) == pytest.approx(max((of - step) / speed - 2, 0), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_an_uneven_speed_makes_no_jumps(seed):
    rng = random.Random(seed)
    speeds = [rng.choice((6.0, 10.0, 14.0)) for _ in range(100)]
    history = [(at, pace.left(at)) for at, _, pace in play(speeds, of=2000)]
    for (before, left), (at, later) in itertools.pairwise(history[10:]):
        assert abs(later - (left - (at - before))) < 0.05 * left
    at, left = history[-1]
    assert 0.5 < left / ((2000 - sum(speeds)) / 10) < 2


def test_half_the_speed_is_believed_within_a_minute():
    *_, (at, step, pace) = play([10.0] * 60 + [5.0] * 60, of=3000)
    assert pace.left(at) == pytest.approx((3000 - step) / 5, rel=0.05)


def test_what_lies_between_two_trainings_says_nothing_of_the_speed():
    *_, (at, step, pace) = play([10.0] * 20, of=1000)
    steady = pace.left(at)
    pace.skip(at + 30, step + 300)  # the training ended early, and a head was fitted
    for second in range(1, 30):
        pace.see(at + 30 + second, step + 300 + 10 * second, 1000)
    assert steady == pytest.approx(80)
    assert pace.left(at + 59) == pytest.approx((1000 - step - 300 - 290) / 10, abs=1)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 10**9)), max_size=30))
def test_clocks_that_are_set_back_and_jobs_that_restart_do_no_harm(steps):
    pace = ProgressRate(at=0.0)
    for at, step in steps:
        pace.see(at, step, 10**9)
        left = pace.left(at)
        assert left is None or left >= 0


def test_where_no_end_is_known_nothing_is_guessed():
    *_, (at, _, pace) = play([3.0] * 10, of=None)
    assert pace.left(at) is None
    *_, (at, _, pace) = play([0.0] * 10, of=100)
    assert pace.left(at) is None
