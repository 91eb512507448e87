"""Calibration of held-out scores: no row has a say in its own."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.solve.calibration import Calibration, fit_temperature, log_probabilities
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.training import selection


def cross_calibrated(scores, labels, fold, groups=None, temperature=3.0):
    """Rows that stand alone, beside a head with a calibration of its own."""
    before = Calibration(temperature, np.zeros(scores.shape[1]))
    groups = np.arange(len(labels)) if groups is None else groups
    return selection.cross_calibrated(scores, labels, fold, groups, before)


def held(n=60, k=3, n_folds=5, seed=0):
    """Scores that know something of their labels, with folds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    scores = 2 * np.eye(k)[labels] + rng.normal(size=(n, k))
    return scores, labels, np.arange(n) % n_folds


def slow(scores, labels, group_rows):
    """Each row by a calibration of all rows of other groups."""
    found = np.full(scores.shape, np.nan)
    for row in range(len(labels)):
        others = group_rows != group_rows[row]
        fit = fit_temperature(scores[others], labels[others])
        found[row] = np.exp(log_probabilities(scores[[row]], fit))[0]
    return found


def test_each_row_is_calibrated_on_the_other_parts():
    scores, labels, fold = held()
    p, calibration = cross_calibrated(scores, labels, fold)
    blocks = np.arange(len(labels)) % 5
    np.testing.assert_allclose(p, slow(scores, labels, blocks), rtol=1e-9)
    np.testing.assert_allclose(p.sum(1), 1)
    whole = fit_temperature(scores, labels)
    assert calibration.scale == whole.scale
    np.testing.assert_array_equal(calibration.bias, whole.bias)


def test_a_single_fold_is_calibrated_half_by_half():
    scores, labels, _ = held(30)
    fold = np.full(30, -1)
    rows = np.arange(4, 24)
    fold[rows] = 0
    p, calibration = cross_calibrated(scores, labels, fold)
    blocks = np.arange(len(rows)) % 5
    np.testing.assert_allclose(p[rows], slow(scores[rows], labels[rows], blocks), rtol=1e-9)
    assert np.isnan(p[fold < 0]).all()
    whole = fit_temperature(scores[rows], labels[rows])
    assert calibration.scale == whole.scale


@pytest.mark.parametrize("n_folds", [1, 2, 5])
def test_a_rows_own_label_does_not_change_its_probabilities(n_folds):
    scores, labels, fold = held(n_folds=n_folds)
    p, _ = cross_calibrated(scores, labels, fold)
    for row in range(0, len(labels), 7):
        told = labels.copy()
        told[row] = (told[row] + 1) % 3
        again, _ = cross_calibrated(scores, told, fold)
        np.testing.assert_array_equal(again[row], p[row])
        assert not np.array_equal(again, p)  # but it has a say in those of others


def test_rows_that_no_fold_holds_out_have_no_say():
    scores, labels, fold = held()
    fold[::3] = -1
    p, calibration = cross_calibrated(scores, labels, fold)
    assert np.isnan(p[::3]).all()
    keep = fold >= 0
    alone, same = cross_calibrated(scores[keep], labels[keep], fold[keep])
    np.testing.assert_array_equal(p[keep], alone)
    assert calibration.scale == same.scale


def test_noise_is_not_made_certain():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 4, 400), 5 * rng.normal(size=(400, 4))
    p, _ = cross_calibrated(scores, labels, np.arange(400) % 5)
    assert abs(p.max(axis=1).mean() - 0.25) < 0.1


@pytest.mark.filterwarnings("error")
def test_a_single_row_is_told_nothing_and_warns_of_nothing():
    p, _ = cross_calibrated(np.array([[1.0, 0.0]]), np.array([0]), np.array([0]))
    assert p.sum() == pytest.approx(1)


def test_few_held_out_rows_keep_the_calibration_that_the_head_had():
    scores, labels, _ = held(8)
    p, calibration = cross_calibrated(scores, labels, np.zeros(8, int), temperature=0.5)
    assert calibration.scale == 0.5
    np.testing.assert_allclose(p, np.exp(log_probabilities(scores, calibration)))


def test_copies_of_one_picture_are_calibrated_by_the_others():
    scores, labels, _ = held(40)
    groups = np.arange(40) // 2
    p, _ = cross_calibrated(scores, labels, np.zeros(40, int), groups)
    np.testing.assert_allclose(p, slow(scores, labels, groups % 5), rtol=1e-9)


def test_what_one_half_leans_to_and_the_other_away_from_is_not_carried_over():
    """A training on a half leans to what it saw more of; the other half saw less of that."""
    scores, labels, fold = held(120, n_folds=2)
    lean = np.where(fold[:, None] == 0, 1.5, -1.5) * np.array([1.0, -1.0, 0.0])
    p, calibration = cross_calibrated(scores + lean, labels, fold)
    loss = -np.log(p[np.arange(120), labels]).mean()
    plain = -np.log(np.exp(log_probabilities(scores + lean, Calibration(1.0, np.zeros(3)))))
    assert loss < plain[np.arange(120), labels].mean() + 0.05
    assert (calibration.bias == 0).all()


def test_how_often_labels_are_among_the_others_does_not_rank_rows():
    """A part with more of a label leaves the others fewer: a shift each would rank it lower."""
    rng = np.random.default_rng(2)
    truth = (rng.random((100, 6)) < 0.3).astype(float)
    scores = truth + 1.5 * rng.normal(size=truth.shape)
    plain = Calibration(1.0, np.zeros(6))
    p, _ = selection.cross_calibrated(
        scores, truth, np.arange(100) % 2, np.arange(100), plain, MULTILABEL
    )
    before, after = (MULTILABEL.credits(said, truth).mean() for said in (scores, p))
    assert after > before - 0.02
