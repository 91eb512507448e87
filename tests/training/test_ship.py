"""The ship rule: simple where nothing is gained, both in one where they err differently."""

from __future__ import annotations

import numpy as np
import pytest

from warmstart.training.ship import HEAD, SHARES, TUNED, decide

K = 4


def _said(labels, right, rng, sure=4.0):
    """Probabilities that are right with a chance, and as sure as that."""
    scores = rng.normal(size=(len(labels), K))
    shown = np.where(rng.random(len(labels)) < right, labels, rng.integers(K, size=len(labels)))
    scores[np.arange(len(labels)), shown] += sure
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _case(n, head, tuned, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(K, size=n)
    fold, blocks = np.arange(n) % 5, np.arange(n)
    return (
        _said(labels, head, rng), _said(labels, tuned, rng), labels, fold, blocks,
        np.random.default_rng(1),
    )  # fmt: skip


def test_a_much_better_tuned_network_ships_or_leads_the_blend():
    found = decide(*_case(300, 0.4, 0.95))
    assert found.option.share >= 0.5
    assert found.gain > 3 * found.error
    assert found.deeper.mean() > found.head.mean() + 0.2


def test_a_worse_tuned_network_leaves_the_head():
    found = decide(*_case(300, 0.9, 0.3))
    assert found.option.share <= 0.25
    assert found.gain < 0


def test_two_that_err_differently_are_better_together():
    kinds = [decide(*_case(400, 0.7, 0.7, seed)).kind for seed in range(5)]
    assert all(kind not in (HEAD, TUNED) for kind in kinds)


def test_the_same_answers_ship_the_head():
    head, _, *rest = _case(200, 0.8, 0.8)
    assert decide(head, head.copy(), *rest).kind == HEAD


@pytest.mark.parametrize("seed", range(3))
def test_labels_by_lot_gain_nothing(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=200)
    head, tuned = (rng.dirichlet(np.ones(2), 200) for _ in range(2))
    fold = np.arange(200) % 5
    found = decide(head, tuned, labels, fold, np.arange(200), np.random.default_rng(0))
    assert abs(found.hits.mean() - 0.5) < 0.12


def test_rows_that_were_never_held_out_do_not_count():
    head, tuned, labels, fold, blocks, rng = _case(100, 0.5, 0.9)
    fold = np.where(np.arange(100) < 60, -1, 0)
    head[fold < 0], tuned[fold < 0] = np.nan, np.nan
    found = decide(head, tuned, labels, fold, blocks, rng)
    assert len(found.hits) == len(found.head) == len(found.deeper) == 40
    assert np.isfinite(found.hits).all()
    assert np.isnan(found.option.probabilities[fold < 0]).all()


def test_a_share_is_one_of_those_that_are_tried():
    assert decide(*_case(120, 0.6, 0.7)).option.share in SHARES


def test_the_head_is_told_by_folds_that_left_it_more_to_learn_from():
    head, tuned, labels, *rest = _case(300, 0.9, 0.3)
    alone = np.eye(head.shape[1])[labels]  # right every time
    plain = decide(head, tuned, labels, *rest)
    found = decide(head, tuned, labels, *rest, alone=alone)
    assert found.kind == plain.kind == HEAD
    assert found.hits.mean() > plain.hits.mean() + 0.03
    assert found.gain == plain.gain
    assert (found.head == plain.head).all()


def test_the_tuned_network_is_worth_what_the_head_is_and_what_it_is_ahead():
    head, tuned, labels, *rest = _case(300, 0.4, 0.7)
    alone = head.copy()
    alone[:100] = np.eye(head.shape[1])[labels[:100]]  # right more often, learning from more
    plain, found = (decide(head, tuned, labels, *rest, alone=a) for a in (head, alone))
    assert found.kind == plain.kind != HEAD
    risen = (alone.argmax(axis=1) == labels).mean() - (head.argmax(axis=1) == labels).mean()
    assert found.hits.mean() - plain.hits.mean() == pytest.approx(risen, abs=0.02)


def test_layers_that_learnt_from_pairs_ship_by_how_often_they_are_right():
    """Their probabilities are surer than they are right, and no mean of both is tried."""
    head, _, labels, fold, blocks, _ = _case(60, 0.5, 0.9)
    tuned = _said(labels, 0.85, np.random.default_rng(3), sure=12.0)
    rng = np.random.default_rng(1)
    found = decide(head, tuned, labels, fold, blocks, rng, is_paired=True)
    assert found.kind == TUNED
    assert found.deeper.mean() == pytest.approx((tuned.argmax(axis=1) == labels).mean())
    worse = decide(tuned, head, labels, fold, blocks, rng, is_paired=True)
    assert worse.kind == HEAD


def test_what_a_head_gains_by_more_rows_is_not_what_such_layers_gain():
    head, tuned, labels, fold, blocks, rng = _case(60, 0.4, 0.9)
    alone = _said(labels, 0.7, np.random.default_rng(2))
    found = decide(head, tuned, labels, fold, blocks, rng, alone=alone, is_paired=True)
    assert found.kind == TUNED
    assert found.hits.mean() == pytest.approx((tuned.argmax(axis=1) == labels).mean(), abs=0.03)
