"""Boosting beside a network: honest, and better where trees are what it takes."""

import numpy as np

from warmstart.events import drain
from warmstart.training.boosting import ROUNDS, boost


def folds(n, k=4):
    return [np.arange(n)[part::k] for part in range(k)]


def inner(keep):
    return [np.arange(len(keep))[part::3] for part in range(3)]


def run(x, y, n_classes=2):
    return drain(boost(x, y, n_classes, folds(len(y)), inner, 0))


def test_it_finds_what_no_line_parts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    probabilities, fold = run(x, y)
    assert (probabilities.argmax(axis=1) == y).mean() > 0.8
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert set(fold) == {0, 1, 2, 3}


def test_random_labels_are_not_learnt():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(120, 4)), rng.integers(0, 2, 120)
    right = (run(x, y)[0].argmax(axis=1) == y).mean()
    assert abs(right - 0.5) < 3 * np.sqrt(0.25 / 120) + 0.05


def test_a_class_that_a_fold_does_not_know_has_no_probability():
    x = np.arange(12.0)[:, None]
    y = np.array([0, 0, 0, 1] * 3)  # class 1 lies in one fold alone
    probabilities, fold = run(x, y)
    assert (probabilities[fold == 3] == [1.0, 0.0]).all()


def test_rows_that_no_fold_holds_out_are_not_answered():
    x, y = np.arange(20.0)[:, None], np.arange(20) // 10
    probabilities, fold = drain(boost(x, y, 2, [np.arange(5)], inner, 0))
    assert np.isnan(probabilities[5:]).all()
    assert (fold[5:] == -1).all()
    assert tuple(sorted(ROUNDS)) == ROUNDS
