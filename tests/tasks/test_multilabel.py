"""Several labels measured, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from warmstart.tasks.multilabel import MULTILABEL, best_thresholds, per_label

RNG = np.random.default_rng(0)
TRUTH = (RNG.random((120, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(float)
P = np.clip(0.3 * TRUTH + 0.6 * RNG.random((120, 4)), 0, 1)


def test_metrics_are_those_of_scikit_learn():
    measure, groups = MULTILABEL, np.arange(120)
    certainty = measure.certainty(P, TRUTH, groups)
    found = measure.scores(P, TRUTH, groups, certainty, ("a", "b", "c", "d"))
    named = certainty.thresholds <= P
    assert found.mAP == pytest.approx(average_precision_score(TRUTH, P))
    assert found.macro_f1 == pytest.approx(f1_score(TRUTH, named, average="macro"))
    assert found.micro_f1 == pytest.approx(f1_score(TRUTH, named, average="micro"))
    assert found.exact == pytest.approx(accuracy_score(TRUTH, named))
    assert [score.label for score in found.labels] == ["a", "b", "c", "d"]
    assert found.low < found.mAP < found.high


def test_thresholds_are_those_of_best_f1():
    thresholds = best_thresholds(P, TRUTH)
    for k, score in enumerate(per_label(P, TRUTH, list("abcd"), thresholds)):
        every = [f1_score(TRUTH[:, k], at <= P[:, k]) for at in P[:, k]]
        assert score.f1 == pytest.approx(max(every))
    few = best_thresholds(P[:12], TRUTH[:12] * 0)
    assert few.tolist() == [0.5] * 4


def test_sets_are_sure_where_every_label_is():
    truth = np.tile(TRUTH, (3, 1))
    clear = np.where(truth > 0, 0.99, 0.01)
    certainty = MULTILABEL.certainty(clear, truth, np.arange(360))
    assert certainty.confident_from == pytest.approx(0.99)
    assert certainty.promised_error == 0.02


def test_the_interval_is_about_as_wide_as_a_bootstrap_says():
    drawn = []
    for _ in range(400):
        rows = RNG.integers(120, size=120)
        drawn.append(average_precision_score(TRUTH[rows], P[rows]))
    found = MULTILABEL.scores(
        P, TRUTH, np.arange(120), MULTILABEL.certainty(P, TRUTH, np.arange(120))
    )
    assert (found.high - found.low) / (2 * 1.98) == pytest.approx(np.std(drawn), rel=0.35)


def test_a_score_without_a_mistake_still_has_an_interval():
    clear = np.where(TRUTH > 0, 0.9, 0.1)
    measure, groups = MULTILABEL, np.arange(120)
    found = measure.scores(clear, TRUTH, groups, measure.certainty(clear, TRUTH, groups))
    assert (found.low, found.mAP, found.high) == (1 - 3 / 120, 1, 1)
