"""Held-out rows that get worse towards the end: told, with what was done about it."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.records.summary import GuardNote
from warmstart.training.early_stopping import CANDIDATES, END, VALIDATIONS, ChosenEnd
from warmstart.training.fine_tune import check_overfit

N = 60


def chosen(means, candidate, held=N, noise=0.0):
    """Losses of the looks around these means, shares as good as the end."""
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.2, N)
    losses = np.full((len(CANDIDATES), N), np.nan)
    for number in range(len(CANDIDATES)):
        mean = means[min(number, VALIDATIONS - 1)]
        losses[number, :held] = (mean + spread + noise * rng.normal(size=N))[:held]
    return ChosenEnd(candidate, np.zeros((N, 2)), losses)


RISING = (0.9, 0.4, 0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("candidate", "kept"),
    [
        (1, "the weights after 2 fifths of the steps are kept"),
        (END, "the weights after 5 fifths of the steps are kept"),
        (VALIDATIONS + 1, "weights 50% of the way from the base model's are kept"),
    ],
)
def test_losses_that_rise_look_by_look_are_told_with_what_is_kept(candidate, kept):
    found = check_overfit(chosen(RISING, candidate), np.arange(N), 100)
    assert found == GuardNote(kind="overfit", step=100, action=kept)


@pytest.mark.parametrize(
    ("means", "noise"),
    [
        ((0.9, 0.7, 0.6, 0.5, 0.4), 0.0),
        ((0.9, 0.4, 0.5, 0.6, 0.55), 0.0),
        ((0.9, 0.4, 0.401, 0.402, 0.403), 1.0),
        ((0.4,) * 5, 0.0),
    ],
)
def test_losses_that_fall_or_rise_by_chance_are_no_alarm(means, noise):
    assert check_overfit(chosen(means, END, noise=noise), np.arange(N), 100) is None


def test_rows_that_were_never_held_out_say_nothing():
    few = check_overfit(chosen(RISING, 1, held=20), np.arange(N), 100)
    assert few is not None
    assert check_overfit(chosen(RISING, 1, held=0), np.arange(N), 100) is None


def test_rows_of_one_block_are_one_witness():
    """What all rows of a few groups say together is not beyond chance."""
    one = chosen(RISING, 1)
    shaken = one.losses.copy()
    shaken[4] += np.repeat([1.5, -1.4], N // 2)  # two groups that disagree at the end
    found = ChosenEnd(1, one.scores, shaken)
    assert check_overfit(found, np.repeat([0, 1], N // 2), 100) is None
