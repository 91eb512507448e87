"""What each task says of scores and truths, against the slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, r2_score

from warmstart.solve import ridge
from warmstart.stats.permutation import permutation_test
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.registry import target_of
from warmstart.tasks.regress import Regression


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def truths(rng, n=60):
    """A target and a truth of each task."""
    return [
        (CLASSIFICATION, rng.integers(3, size=n), 3),
        (MULTILABEL, (rng.random((n, 4)) < 0.3).astype(float), 4),
        (Regression(), rng.normal(size=n), 1),
    ]


def test_the_score_is_the_mean_of_the_credits(rng):
    sets, p = (rng.random((50, 4)) < 0.4).astype(float), rng.random((50, 4))
    wanted = average_precision_score(sets, p, average="macro")
    assert MULTILABEL.credits(p, sets).mean() == pytest.approx(wanted)
    values, said = rng.normal(size=50), rng.normal(size=(50, 1))
    assert Regression().credits(said, values).mean() == pytest.approx(r2_score(values, said[:, 0]))


def test_precision_counts_ties_as_scikit_learn_does(rng):
    sets, p = (rng.random((80, 3)) < 0.4).astype(float), rng.integers(4, size=(80, 3)) / 4
    wanted = average_precision_score(sets, p, average="macro")
    assert MULTILABEL.credits(p, sets).mean() == pytest.approx(wanted)


def test_losses_of_scores_are_those_of_their_answers(rng):
    for target, truth, k in truths(rng):
        scores = rng.normal(size=(len(truth), k))
        calibration = target.calibrate_final(scores, truth)
        answers = target.answers(scores, calibration)
        losses = target.losses(scores, truth, calibration)
        np.testing.assert_allclose(losses, target.answer_losses(answers, truth), rtol=1e-6)
        plain = target.calibrate(scores, truth)
        again = target.answers(target.scores_of(answers), type(plain)(1.0, np.zeros(k)))
        np.testing.assert_allclose(again, answers, atol=1e-9)


def test_label_losses_are_log_losses(rng):
    truth, p = (rng.random((40, 2)) < 0.5).astype(float), rng.uniform(0.05, 0.95, (40, 2))
    wanted = np.mean([log_loss(truth[:, k], p[:, k]) for k in range(2)])
    assert MULTILABEL.answer_losses(p, truth).mean() == pytest.approx(wanted)


def test_no_constant_answer_has_less_than_the_blind_loss(rng):
    for target, truth, k in truths(rng):
        blind = target.blind_loss(truth)
        shares = target.encode(truth, k).mean(axis=0)
        if target is MULTILABEL or target is CLASSIFICATION:
            found = target.answer_losses(np.tile(shares, (len(truth), 1)), truth).mean()
            assert found == pytest.approx(blind)
        else:
            found = target.answer_losses(np.full((len(truth), 1), truth.mean()), truth).mean()
            assert found == pytest.approx(blind)


def test_equal_truths_have_equal_numbers(rng):
    for target, truth, _ in truths(rng):
        numbers, strata = target.identities(truth), target.strata(truth)
        assert numbers.shape == strata.shape == (len(truth),)
        same = [np.array_equal(truth[0], other) for other in truth]
        assert ((numbers == numbers[0]) == same).all()


@pytest.mark.parametrize("task", [1, 2])
def test_the_signal_test_finds_what_is_there_and_not_what_is_not(rng, task):
    target, truth, k = truths(rng)[task]
    singles = [np.array([row]) for row in range(len(truth))]
    for features, is_there in ((target.encode(truth, k), True), (rng.normal(size=(60, 5)), False)):
        kernel = features @ features.T
        inverses = [ridge.inverse(kernel, penalty) for penalty in (0.3, 3.0)]
        test = permutation_test(
            inverses,
            target.identities(truth),
            singles,
            np.random.default_rng(1),
            99,
            lambda operators, draws: target.statistics(operators, draws, truth),
        )
        assert (test.p <= 0.01) == is_there


def test_the_statistic_is_that_of_left_out_predictions(rng):
    kernel = (lambda x: x @ x.T)(rng.normal(size=(30, 8)))
    dual = ridge.inverse(kernel, 0.5)
    operator = (dual / np.diag(dual)[:, None]).astype(np.float32)
    for target, truth, k in truths(rng, n=30)[1:]:
        numbers = target.identities(truth)
        t, score = target.statistics([operator], numbers[:, None], truth)
        encode = target.encode(truth, k)
        said = encode - operator @ encode
        assert score[0] == pytest.approx(target.credits(said, truth).mean(), abs=1e-4)
        assert t[0] < 0


def test_numbers_leave_in_the_unit_that_they_came_in():
    target = target_of("regress", ["10", "14"])
    z = target.read(["10", "12"], ())
    assert z.tolist() == [-1.0, 0.0]
    calibration = target.model_calibration(target.calibrate(z[:, None], z))
    assert target.answers(z[:, None], calibration)[:, 0].tolist() == [10.0, 12.0]


def test_labels_are_read_by_name():
    assert target_of("multilabel", []).read(["b", "", "a|b"], ("a", "b")).tolist() == [
        [0, 1],
        [0, 0],
        [1, 1],
    ]
    assert target_of("classify", []) is CLASSIFICATION
