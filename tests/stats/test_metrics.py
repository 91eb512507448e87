import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn import metrics as sk
from warmstart.stats import metrics


@settings(max_examples=40)
@given(st.integers(5, 80), st.integers(2, 5), st.integers(0, 999))
def test_metrics_agree_with_scikit_learn(n, k, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    p = rng.dirichlet(np.ones(k), size=n)
    predicted = p.argmax(axis=1)
    ours = metrics.scores(p, labels, np.arange(n))
    assert ours.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
    recall = sk.recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert ours.balanced_accuracy == pytest.approx(recall)
    assert ours.macro_f1 == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert ours.log_loss == pytest.approx(sk.log_loss(labels, p, labels=range(k)))
    assert ours.low <= ours.accuracy <= ours.high


def test_calibration_error_by_its_definition():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=500)
    labels = rng.integers(3, size=500)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    slow = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            slow += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.expected_calibration_error(p, labels) == pytest.approx(slow)


def test_a_wrong_certainty_is_finite():
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) < 30
