"""The ship rule: simple where nothing is gained, an ensemble where the two err differently."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.solve.calibration import Calibration
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.regress import Regression
from warmstart.training.head_families import cross_calibrated, cross_folds
from warmstart.training.ship import FINE_TUNED, PROBE, RESTORED, SHARES, at_full_size, decide

K = 4
NUMBERS = Regression()


def _said(labels, right, rng, confident=4.0, k=K):
    """Probabilities that are right with a chance, and as sure as that."""
    scores = rng.normal(size=(len(labels), k))
    shown = np.where(rng.random(len(labels)) < right, labels, rng.integers(k, size=len(labels)))
    scores[np.arange(len(labels)), shown] += confident
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _case(n, head, tuned, seed=0):
    """Linear probe, twice, for here a fold costs it nothing; fine-tuned; labels, folds, blocks."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=n)
    probe = _said(labels, head, rng)
    return probe, probe, _said(labels, tuned, rng), labels, np.arange(n) % 5, np.arange(n)


def _right(p, labels):
    return (p.argmax(axis=1) == labels).mean()


def _slow(share, probe, before, tuned, labels, fold, groups):
    """What a share answers, calibrated on other parts."""
    if share == 0:
        return probe
    scores = at_full_size(probe, before, tuned, share=share)
    plain = Calibration(1.0, np.zeros(probe.shape[1]))
    return cross_calibrated(scores, labels, fold, groups, plain)[0]


def _answers(target, rng, n=12, k=3):
    if target is NUMBERS:
        return rng.normal(size=(n, 1))
    p = rng.uniform(0.05, 0.95, size=(n, k))
    return p / p.sum(axis=1, keepdims=True) if target is CLASSIFICATION else p


targets = pytest.mark.parametrize(
    "target", [CLASSIFICATION, MULTILABEL, NUMBERS], ids=lambda t: t.task
)


@targets
def test_a_share_of_what_larger_folds_give_the_linear_probe_is_restored(target):
    rng = np.random.default_rng(1)
    probe, fewer, tuned = (_answers(target, rng) for _ in range(3))
    gap = at_full_size(probe, fewer, tuned, target) - target.scores_of(tuned)
    np.testing.assert_allclose(
        gap, RESTORED * (target.scores_of(probe) - target.scores_of(fewer)), rtol=0, atol=1e-12
    )


@targets
def test_an_ensemble_has_its_share_of_the_fine_tuned_scores(target):
    rng = np.random.default_rng(2)
    three = [_answers(target, rng) for _ in range(3)]
    none, whole = (at_full_size(*three, target, share) for share in (0.0, 1.0))
    np.testing.assert_allclose(none, target.scores_of(three[0]))
    for share in SHARES:
        mean = share * whole + (1 - share) * none
        np.testing.assert_allclose(at_full_size(*three, target, share), mean, atol=1e-12)


def test_a_much_better_fine_tuned_network_ships_or_leads_the_ensemble():
    found = decide(*_case(300, 0.4, 0.95))
    assert found.option.share >= 0.5
    assert found.ahead > 0.2
    assert (found.fine_tuned == found.probabilities).all()


def test_a_worse_fine_tuned_network_leaves_the_linear_probe():
    probe, before, tuned, labels, *rest = _case(300, 0.9, 0.3)
    tuned = _said(labels, 0.3, np.random.default_rng(5), confident=8.0)  # and sure of it
    found = decide(probe, before, tuned, labels, *rest)
    assert found.kind == PROBE
    assert (found.probabilities == probe).all()


def _calibrated(p, labels, fold, groups):
    plain = Calibration(1.0, np.zeros(K))
    return cross_calibrated(np.log(p), labels, fold, groups, plain)[0]


def test_what_was_not_kept_is_the_best_of_what_was_tried():
    """Its gain is told all the same, and its choice is nested, too."""
    probe, _, tuned, labels, *rest = _case(300, 0.8, 0.3)
    case = (_calibrated(probe, labels, *rest), probe, tuned, labels, *rest)
    found = decide(*case)
    assert found.kind == PROBE
    tried = np.stack([_slow(share, *case) for share in SHARES[1:]])
    assert (np.abs(tried - found.fine_tuned).max(axis=2).min(axis=0) < 1e-5).all()
    losses = [
        CLASSIFICATION.answer_losses(one, labels).mean() for one in (*tried, found.fine_tuned)
    ]
    assert losses[-1] < np.mean(losses[:-1])
    gap = _right(found.fine_tuned, labels) - _right(case[0], labels)
    assert found.ahead == pytest.approx(gap)


def test_two_that_err_differently_are_better_together():
    kinds = [decide(*_case(400, 0.7, 0.7, seed)).kind for seed in range(5)]
    assert all(kind not in (PROBE, FINE_TUNED) for kind in kinds)


def test_where_both_cannot_stand_in_one_network_no_ensemble_ships():
    for seed in range(5):
        assert decide(*_case(400, 0.7, 0.7, seed), may_ensemble=False).kind in (PROBE, FINE_TUNED)


@pytest.mark.parametrize("tuned", [0.3, 0.7, 0.95])
def test_a_strategy_that_is_set_ships_whatever_the_rows_say(tuned):
    """Nothing is chosen, so that each row is answered by the fine-tuned network."""
    case = _case(300, 0.7, tuned)
    found = decide(*case, is_set=True)
    assert found.kind == FINE_TUNED
    np.testing.assert_allclose(found.probabilities, _slow(1.0, *case))
    assert (found.fine_tuned == found.probabilities).all()
    gap = _right(found.probabilities, case[3]) - _right(case[0], case[3])
    assert found.ahead == pytest.approx(gap)


def test_rows_that_were_never_held_out_do_not_count():
    probe, _, tuned, labels, fold, groups = _case(100, 0.5, 0.9)
    fold = np.where(np.arange(100) < 60, -1, 0)
    probe[fold < 0], tuned[fold < 0] = np.nan, np.nan
    found = decide(probe, probe, tuned, labels, fold, groups)
    assert np.isfinite(found.ahead)
    for answers in (found.probabilities, found.fine_tuned, found.option.probabilities):
        assert np.isnan(answers[fold < 0]).all()
        assert np.isfinite(answers[fold >= 0]).all()
    alone = decide(*(one[60:] for one in (probe, probe, tuned, labels, fold, groups)))
    np.testing.assert_array_equal(found.probabilities[60:], alone.probabilities)
    assert (found.kind, found.ahead) == (alone.kind, alone.ahead)


@pytest.mark.parametrize("how", ["is_apart", "is_paired"])
def test_a_network_that_did_not_begin_with_the_probes_head_is_judged_by_what_it_says(how):
    probe, _, tuned, labels, fold, groups = _case(300, 0.4, 0.9)
    half = _said(labels, 0.3, np.random.default_rng(3))
    found = decide(probe, half, tuned, labels, fold, groups, is_set=True, **{how: True})
    other = decide(probe, probe, tuned, labels, fold, groups, is_set=True)
    np.testing.assert_allclose(found.probabilities, other.probabilities)
    assert found.ahead == pytest.approx(_right(tuned, labels) - _right(probe, labels), abs=0.02)


def test_layers_that_learnt_from_pairs_ship_by_how_often_they_are_right():
    """Their probabilities are surer than they are right, and no mean of both is tried."""
    probe, _, _, labels, fold, groups = _case(60, 0.5, 0.9)
    tuned = _said(labels, 0.85, np.random.default_rng(3), confident=12.0)
    found = decide(probe, probe, tuned, labels, fold, groups, is_paired=True)
    assert found.kind == FINE_TUNED
    assert found.ahead == pytest.approx(_right(tuned, labels) - _right(probe, labels))
    worse = decide(tuned, tuned, probe, labels, fold, groups, is_paired=True)
    assert worse.kind == PROBE
    assert worse.ahead < 0


def _open_case(seed, n=60):
    """Rows among which the choice is close."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=n)
    three = (_said(labels, right, rng, 1.5) for right in (0.6, 0.55, 0.65))
    return *three, labels, np.arange(n) % 3, np.arange(n) // 2


def _choices(found, case):
    """Which option answers each part of the rows: one for all of its rows."""
    options = np.stack([_slow(share, *case) for share in SHARES])
    far = np.abs(options - found.probabilities).max(axis=2)  # (S, n)
    parts = cross_folds(case[-1])
    chosen = {}
    for part in np.unique(parts):
        apart = far[:, parts == part].max(axis=1)
        assert apart.min() < 1e-5 < np.sort(apart)[1]  # one option, and that one alone
        chosen[int(part)] = int(apart.argmin())
    return chosen, options


@pytest.mark.parametrize("seed", range(2))
def test_no_row_has_a_say_in_its_own_answer(seed):
    """Its label exchanged, a row is answered as before, unless its part is given another option.

    That is chosen by other parts; only a change of what ships as a whole may come of it.
    """
    case = _open_case(seed)
    found = decide(*case)
    chosen, options = _choices(found, case)
    rng = np.random.default_rng(seed)
    parts = cross_folds(case[-1])
    for row in rng.choice(60, 6, replace=False):
        labels = case[3].copy()
        labels[row] = (labels[row] + 1) % K
        other = (*case[:3], labels, *case[4:])
        again = decide(*other)
        others, now = _choices(again, other)
        np.testing.assert_array_equal(now[:, row], options[:, row])
        part = int(parts[row])
        if others[part] == chosen[part]:
            np.testing.assert_array_equal(again.probabilities[row], found.probabilities[row])


def _by_lot(seed, n=60, k=2):
    """Answers that have nothing to do with the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    three = (_said(rng.integers(k, size=n), 1.0, rng, 1.0, k) for _ in range(3))
    return *three, labels, np.arange(n) % 3, np.arange(n)


@pytest.mark.parametrize(
    "how",
    [{}, {"may_ensemble": False}, {"is_apart": True}, {"is_paired": True}],
    ids=lambda how: next(iter(how), "usual"),
)
def test_labels_by_lot_gain_next_to_nothing_by_the_choice(how):
    """Where the rows of others choose, nothing is gained; the better in hindsight would be.

    Where the linear probe is kept, its own rows had a say, and its estimate stays as it was made:
    that is worth a third of a standard error of one estimate where nothing can be learnt, at most.
    """
    shipped, ahead, kinds, hindsight, draws, n = [], [], [], [], 150, 60
    for seed in range(draws):
        case = _by_lot(seed, n)
        found = decide(*case, **how)
        shipped.append(_right(found.probabilities, case[3]) - 0.5)
        ahead.append(found.ahead)
        kinds.append(found.kind)
        hindsight.append(max(_right(case[0], case[3]), _right(case[2], case[3])) - 0.5)
    one_estimate = 0.5 / n**0.5
    assert abs(np.mean(shipped)) < 0.4 * one_estimate
    assert np.mean(ahead) < np.std(ahead) / draws**0.5
    nested = np.array(shipped)[np.array(kinds) != PROBE]
    assert len(nested) > 20
    assert np.mean(nested) < 2 * np.std(nested) / len(nested) ** 0.5
    assert np.mean(hindsight) > 0.5 * one_estimate


@given(st.integers(0, 1000), st.sampled_from([{}, {"is_apart": True}, {"may_ensemble": False}]))
def test_numbers_and_sets_of_labels_are_chosen_among_in_the_same_way(seed, how):
    rng = np.random.default_rng(seed)
    n, fold = 40, np.arange(40) % 3
    truth = rng.normal(size=n)
    truth = (truth - truth.mean()) / truth.std()
    three = [(truth + rng.normal(size=n))[:, None] for _ in range(3)]
    some = rng.random((n, 3)) < 0.4
    some[:2] = [[True, False, True], [False, True, False]]
    sets = [np.clip(0.3 + 0.4 * some + 0.2 * rng.normal(size=(n, 3)), 0.05, 0.95) for _ in range(3)]
    for target, labels, said in ((NUMBERS, truth, three), (MULTILABEL, some.astype(int), sets)):
        found = decide(*said, labels, fold, np.arange(n), target, **how)
        credits = target.credits(found.fine_tuned, labels).mean()
        before = target.credits(said[0], labels).mean()
        assert found.ahead == pytest.approx(credits - before)
        if found.kind != PROBE:
            np.testing.assert_array_equal(found.fine_tuned, found.probabilities)
        else:
            np.testing.assert_array_equal(found.probabilities, said[0])
