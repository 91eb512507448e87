import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn import metrics as sk
from warmstart.records.data import Example
from warmstart.stats import metrics
from warmstart.stats.intervals import accuracy_interval
from warmstart.stats.metrics import precision_shares, quick_precisions
from warmstart.stats.paired import mean_interval


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


# ---- Average precision of many draws at once.


def test_draws_are_scored_as_one_by_one():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 5, 3)).astype(np.float32)
    truth = (rng.random((40, 5, 3)) < 0.3).astype(np.float32)
    truth[:, :, 0][:, 2] = 0  # a label that nobody has in one draw counts nothing
    found = quick_precisions(scores, truth)
    for draw in range(5):
        seen = truth[:, draw].any(axis=0)
        wanted = sk.average_precision_score(truth[:, draw][:, seen], scores[:, draw][:, seen])
        assert abs(found[draw] - wanted) < 1e-6
        assert abs(precision_shares(scores[:, draw], truth[:, draw]).mean() - wanted) < 1e-6


def test_ties_are_ranked_together_as_scikit_learn_does():
    rng = np.random.default_rng(1)
    answers, truth = rng.normal(size=(30, 4)).round(), (rng.random((30, 4)) < 0.4).astype(float)
    truth[:, 2] = 0
    has = [0, 1, 3]
    shares = metrics.precision_shares(answers, truth)
    wanted = sk.average_precision_score(truth[:, has], answers[:, has])
    assert shares.mean() == pytest.approx(wanted)
    assert shares.std() > 0
    assert not metrics.precision_shares(answers, 0 * truth).any()


# ---- Estimates


@pytest.mark.parametrize(("method", "inflation"), [("holdout", 1), ("nested-cv", 1.7)])
def test_an_estimate_is_widened_where_the_scored_models_do_not_ship(method, inflation):
    labels, groups = np.tile([0, 1, 1], 20), np.arange(60) // 2
    p = np.eye(2)[np.tile([0, 1, 0], 20)]
    made = metrics.accuracy_estimate(p, labels, groups, method)
    hits = np.tile([1.0, 1.0, 0.0], 20)
    assert (made.value, made.low, made.high) == accuracy_interval(hits, groups, inflation)
    assert (made.metric, made.n, made.method) == ("accuracy", 60, method)
    credits = np.tile([1.0, 0.8, 0.9, 0.7], 15)
    mean = metrics.mean_estimate("r2", credits, np.arange(60), method)
    half = mean_interval(credits, np.arange(60))[2] - 0.85
    assert mean.high - mean.value == pytest.approx(max(half * inflation**0.5, 3 / 60))
    assert mean.value - mean.low == pytest.approx(mean.high - mean.value)


def test_hits_beyond_0_and_1_widen_and_scores_have_bounds():
    even = np.arange(100) % 2.0
    narrow = metrics.hits_estimate(even, np.arange(100), "holdout")
    wide = metrics.hits_estimate(3 * even - 1, np.arange(100), "holdout")
    assert narrow.value == wide.value == 0.5
    assert (narrow.low, narrow.high) == accuracy_interval(even, np.arange(100))[1:]
    assert wide.low == pytest.approx(accuracy_interval(even, np.arange(100), 9)[1])
    lucky = metrics.mean_estimate("r2", np.ones(50), np.arange(50), "holdout")
    assert (lucky.low, lucky.high) == (pytest.approx(1 - 3 / 50), 1.0)
    wild = metrics.mean_estimate("r2", np.array([1.0, -9.0]), np.arange(2), "holdout")
    assert (wild.low, wild.high) == (-1.0, 1.0)


def test_a_line_of_predictions():
    example = Example(id="a.jpg", label="cat", split="train", sha256="0" * 64)
    assert metrics.line_fields(example, 3)["split"] == "oof"
    assert metrics.line_fields(example, None)["split"] == "test"
    assert metrics.rounded(["a", "b"], np.array([1 / 3, 2 / 3])) == {"a": 0.333333, "b": 0.666667}
