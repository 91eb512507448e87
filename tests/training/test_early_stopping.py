"""Which end of a training is taken: on held-out rows, and never on a row's own fold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve.calibration import Calibration, fit_temperature, log_probabilities
from warmstart.training.early_stopping import (
    CANDIDATES,
    END,
    MAX_LOSS,
    SHARES,
    VALIDATIONS,
    TrainingEnd,
    choose_end,
)
from warmstart.training.selection import FOLDS, LEAST, cross_folds

C = len(CANDIDATES)
property_of = settings(max_examples=60)


def task(n=60, k=2, folds=3, seed=0):
    """Scores of every candidate that know something, labels, folds, blocks."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    strength = rng.uniform(0, 2, C)
    scores = rng.normal(size=(C, n, k)) + strength[:, None, None] * np.eye(k)[labels]
    return scores, labels, rng.permutation(np.arange(n) % folds), np.arange(n)


def slow_losses(scores, labels):
    """Mean loss of each candidate at its own best temperature."""
    found = []
    for one in scores:
        log_p = log_probabilities(one, fit_temperature(one, labels))
        found.append(-log_p[np.arange(len(labels)), labels].mean())
    return np.array(found)


# ---- routes --------------------------------------------------------------------------------


@property_of
@given(n_steps=st.integers(1, 5000))
def test_validations_come_in_order_and_the_last_is_the_end(n_steps):
    steps = [TrainingEnd(validation=k).n_steps(n_steps) for k in range(1, VALIDATIONS + 1)]
    assert steps == sorted(steps)
    assert steps[0] >= 1
    assert steps[-1] == n_steps == TrainingEnd().n_steps(n_steps)
    if n_steps >= VALIDATIONS:
        assert len(set(steps)) == VALIDATIONS


def test_candidates_are_the_validations_then_the_shares_of_the_whole_way():
    assert [c.validation for c in CANDIDATES[:VALIDATIONS]] == [1, 2, 3, 4, 5]
    assert {c.share for c in CANDIDATES[:VALIDATIONS]} == {1.0}
    assert tuple(c.share for c in CANDIDATES[VALIDATIONS:]) == SHARES
    assert {c.validation for c in CANDIDATES[VALIDATIONS:]} == {VALIDATIONS}
    assert CANDIDATES[END] == TrainingEnd()


# ---- the choice ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_end_of_the_last_training_is_the_best_on_all_rows(seed):
    scores, labels, fold, groups = task(seed=seed)
    found = choose_end(scores, labels, fold, groups)
    assert found.candidate == found.losses.mean(axis=1).argmin()
    assert found.end == CANDIDATES[found.candidate]
    part = cross_folds(groups)
    for number in range(FOLDS):
        inside = part == number
        best = slow_losses(scores[:, ~inside], labels[~inside]).argmin()
        np.testing.assert_array_equal(found.scores[inside], scores[best][inside])


@pytest.mark.parametrize("seed", range(3))
def test_losses_are_calibrated_on_the_other_parts(seed):
    scores, labels, fold, groups = task(seed=seed, k=3)
    found = choose_end(scores, labels, fold, groups).losses
    part = cross_folds(groups)
    for number in range(FOLDS):
        inside = np.flatnonzero(part == number)
        for candidate, one in enumerate(scores):
            rest = part != number
            log_p = log_probabilities(one, fit_temperature(one[rest], labels[rest]))
            np.testing.assert_allclose(found[candidate, inside], -log_p[inside, labels[inside]])


@property_of
@given(seed=st.integers(0, 1000), folds=st.integers(1, 5), n=st.integers(24, 80))
def test_the_labels_of_a_part_have_no_say_in_what_is_taken_for_it(seed, folds, n):
    """Not even by way of the calibration under which the other parts are judged."""
    scores, labels, fold, groups = task(n, folds=folds, seed=seed)
    before = choose_end(scores, labels, fold, groups)
    part = cross_folds(groups)
    number = seed % FOLDS
    inside = part == number
    changed = labels.copy()
    changed[inside] = np.random.default_rng(seed).permutation(1 - labels[inside])
    after = choose_end(scores, changed, fold, groups)
    np.testing.assert_array_equal(before.scores[inside], after.scores[inside])


def test_their_say_in_the_others_is_real():
    """The property above would hold of a choice that looks at no label at all."""
    moved = 0
    for seed in range(20):
        scores, labels, fold, groups = task(seed=seed)
        one = choose_end(scores, labels, fold, groups).scores
        two = choose_end(scores, 1 - labels, fold, groups).scores
        moved += not np.array_equal(one, two)
    assert moved > 10


def test_parts_keep_blocks_whole():
    scores, labels, _, _ = task(40)
    fold, groups = np.where(np.arange(40) < 30, 0, -1), np.arange(40) // 3
    found = choose_end(scores, labels, fold, groups)
    assert np.isfinite(found.scores[:30]).all()
    assert np.isnan(found.scores[30:]).all()
    assert np.isnan(found.losses[:, 30:]).all()
    for number in range(FOLDS):
        inside = (np.unique(groups[:30], return_inverse=True)[1] % FOLDS) == number
        best = slow_losses(scores[:, :30][:, ~inside], labels[:30][~inside]).argmin()
        np.testing.assert_array_equal(found.scores[:30][inside], scores[best, :30][inside])


def test_one_block_alone_cannot_choose_for_itself():
    scores, labels, _, _ = task(30)
    found = choose_end(scores, labels, np.zeros(30, int), np.zeros(30, int))
    np.testing.assert_array_equal(found.scores, scores[END])


@pytest.mark.parametrize("n", range(1, LEAST))
def test_few_rows_choose_nothing(n):
    scores, labels, fold, groups = task(30)
    fold[n:] = -1
    scores[:, n:] = np.nan
    found = choose_end(scores, labels, fold, groups)
    assert found.candidate == END
    np.testing.assert_array_equal(found.scores, scores[END])
    for candidate, one in enumerate(scores):
        log_p = log_probabilities(one[:n], Calibration(1.0, np.zeros(2)))
        np.testing.assert_allclose(found.losses[candidate, :n], -log_p[np.arange(n), labels[:n]])


def test_where_all_are_alike_training_goes_to_its_end():
    scores, labels, fold, groups = task()
    found = choose_end(np.repeat(scores[:1], C, axis=0), labels, fold, groups)
    assert found.candidate == END


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("others", [0, 1])
def test_what_is_no_number_is_never_taken(bad, others):
    """Even where it is the end, and where it would be the first that `argmin` meets."""
    scores, labels, fold, groups = task()
    scores[2] = 9 * np.eye(2)[labels]  # the best by far
    for broken in (0, END, 2):
        spoilt = scores.copy()
        spoilt[broken, 7 if others else slice(None)] = bad
        found = choose_end(spoilt, labels, fold, groups)
        assert found.candidate == (2 if broken != 2 else found.candidate) != broken
        assert np.isfinite(found.scores).all()
        assert (found.losses[broken] == MAX_LOSS).all()


def test_where_nothing_is_a_number_it_is_the_end():
    scores, labels, fold, groups = task()
    found = choose_end(scores * np.nan, labels, fold, groups)
    assert found.candidate == END


def test_a_row_counts_no_more_than_so_much_however_wrong_it_is():
    scores, labels, fold, groups = task()
    sure = 1e6 * np.eye(2)[labels]
    sure[0] *= -1
    scores[0] = sure
    found = choose_end(scores, labels, fold, groups)
    assert found.losses.max() <= MAX_LOSS
    assert round(MAX_LOSS / np.log(10)) == 12


def test_the_usual_end_is_taken_where_no_other_is_better():
    scores, labels, fold, groups = task(seed=0)
    same = np.repeat(scores[:1], len(scores), axis=0)
    assert choose_end(same, labels, fold, groups, default=2).candidate == 2
    lone = np.full_like(same, np.nan)
    lone[3] = scores[0]
    assert choose_end(lone, labels, fold, groups, default=3).candidate == 3
    np.testing.assert_array_equal(
        choose_end(lone, labels, fold, groups, default=3).scores, scores[0]
    )
