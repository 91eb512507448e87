"""Bias-corrected bootstrap: a choice among many must not flatter itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.stats.bbc import chosen_hits


def _best(hits):
    return lambda rows: int(hits[:, rows].mean(axis=1).argmax())


@given(n_models=st.integers(2, 30), seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_best_of_many_coins_is_a_coin(n_models, seed):
    hits = (np.random.default_rng(seed).random((n_models, 200)) < 0.5).astype(float)
    found = chosen_hits(hits, _best(hits), np.arange(200), np.random.default_rng(1))
    assert found.shape == (200,)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.mean() <= hits.mean(axis=1).max() + 0.02
    assert abs(found.mean() - 0.5) < 0.12


def test_over_many_draws_it_is_nearly_unbiased_where_the_maximum_is_not():
    plain, honest = [], []
    for seed in range(60):
        hits = (np.random.default_rng(seed).random((10, 100)) < 0.5).astype(float)
        plain.append(hits.mean(axis=1).max())
        found = chosen_hits(hits, _best(hits), np.arange(100), np.random.default_rng(seed), 60)
        honest.append(found.mean())
    assert np.mean(plain) > 0.56
    assert abs(np.mean(honest) - 0.5) < 0.02


def test_one_model_is_worth_its_own_accuracy():
    hits = (np.random.default_rng(0).random((1, 80)) < 0.7).astype(float)
    found = chosen_hits(hits, lambda rows: 0, np.arange(80), np.random.default_rng(0))
    assert found == pytest.approx(hits[0])


def test_blocks_stay_whole():
    """Two rows of a block are never judged by a choice that saw the other."""
    hits = np.stack([np.ones(40), np.zeros(40)])
    blocks = np.arange(40) // 2
    seen = []

    def choose(rows):
        seen.append(set(rows.tolist()))
        return 0

    chosen_hits(hits, choose, blocks, np.random.default_rng(0), draws=10)
    for rows in seen:
        assert all((row ^ 1) in rows for row in rows)


def test_a_row_that_every_draw_held_has_what_the_best_of_all_says():
    hits = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    found = chosen_hits(hits, _best(hits), np.zeros(3, int), np.random.default_rng(0), 5)
    assert found.tolist() == hits[0].tolist()  # one block: it is in every draw
