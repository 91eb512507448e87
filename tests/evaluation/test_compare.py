"""Pairs of runs: who wins, for how many pairs together, and what choices are corrected for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.evaluation.compare import accuracies, inflation_of, pairs
from warmstart.records.summary import Estimate
from warmstart.stats.metrics import MODEL_VARIANCE, accuracy_estimate


def claim(method, value=0.5):
    return Estimate(metric="accuracy", value=value, low=0.0, high=1.0, n=10, method=method)


def test_every_pair_stands_once_in_the_order_of_the_names():
    hits = (np.random.default_rng(0).random((4, 50)) < 0.7).astype(float)
    found = pairs(["d", "c", "b", "a"], hits, np.arange(50))
    assert [pair.a + pair.b for pair in found] == ["dc", "db", "da", "cb", "ca", "ba"]
    for pair in found:
        i, j = ("dcba".index(name) for name in (pair.a, pair.b))
        assert pair.difference == pytest.approx(hits[i].mean() - hits[j].mean())
        assert pair.n == 50


def test_the_winner_may_be_the_second():
    hits = np.stack([np.zeros(40), np.ones(40)])
    (pair,) = pairs(["a", "b"], hits, np.arange(40))
    assert (pair.winner, pair.difference) == ("b", -1.0)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_more_pairs_ask_for_more(n_runs, seed):
    rng = np.random.default_rng(seed)
    hits = (rng.random((n_runs, 80)) < np.linspace(0.5, 0.9, n_runs)[:, None]).astype(float)
    names = [str(i) for i in range(n_runs)]
    together = {(p.a, p.b): p for p in pairs(names, hits, np.arange(80))}
    for (a, b), pair in together.items():
        (alone,) = pairs([a, b], hits[[int(a), int(b)]], np.arange(80))
        assert pair.p >= alone.p - 1e-12
        assert pair.winner in (None, alone.winner)
        assert (pair.low, pair.high) == (alone.low, alone.high)
        assert (pair.winner is None) == (pair.p >= 0.05)


def test_equal_runs_have_no_winner_in_19_of_20_comparisons_of_six_pairs():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        hits = (rng.random((4, 60)) < 0.8).astype(float)
        wrong += any(pair.winner for pair in pairs(["a", "b", "c", "d"], hits, np.arange(60)))
    assert wrong <= 25


def test_models_that_learnt_without_a_row_are_less_sure_than_finished_ones():
    folds, held = [claim("nested-cv"), claim("nested-cv")], [claim("holdout"), claim("holdout")]
    assert inflation_of("test", folds) == 1.0
    assert inflation_of("held-out", folds) == MODEL_VARIANCE
    assert inflation_of("held-out", held) == 1.0
    assert inflation_of("held-out", [claim("holdout"), None]) == MODEL_VARIANCE
    hits = (np.random.default_rng(2).random((2, 60)) < 0.8).astype(float)
    narrow, wide = (pairs(["a", "b"], hits, np.arange(60), x)[0] for x in (1.0, MODEL_VARIANCE))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(1.7**0.5)


def test_accuracies_are_those_of_an_estimate():
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 2, 60), np.arange(60) // 2
    p = rng.random((60, 2))
    whole = accuracy_estimate(p, labels, groups, "nested-cv")
    hits = (p.argmax(axis=1) == labels).astype(float)[None]
    assert accuracies(hits, groups, MODEL_VARIANCE) == [(whole.value, whole.low, whole.high)]
