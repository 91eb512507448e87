"""Inputs unlike the training examples, by their distance to the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.records.network import FeatureLayer
from warmstart.training import out_of_distribution
from warmstart.training.out_of_distribution import (
    fit_neighbours,
    squared_distances,
    to_nearest_other,
)

FEATURE_LAYERS = (FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="neck"))


def make(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return {
        FEATURE_LAYERS[0]: rng.normal(size=(n, 300)),
        FEATURE_LAYERS[1]: rng.normal(size=(n, 90)) * 50,
    }


def as32(features):
    return {layer: x.astype(np.float32) for layer, x in features.items()}


def join(features):
    return np.concatenate([features[layer] for layer in FEATURE_LAYERS], axis=1)


def singles(n):
    return [np.array([i]) for i in range(n)]


def test_new_examples_of_the_same_kind_are_known_and_others_are_not():
    train, same = as32(make()), as32(make(seed=1))
    neighbours, limit, k = fit_neighbours(train.__getitem__, FEATURE_LAYERS, singles(200), seed=0)
    known, _ = neighbours.nearest(join(same), k)
    assert (known > limit).mean() < 0.1
    far, _ = neighbours.nearest(join(same) * 4, k)
    assert (far > limit).all()


def test_copies_do_not_shrink_what_counts_as_known():
    once = make(n=60)
    copies = as32({layer: np.repeat(x, 4, axis=0) for layer, x in once.items()})
    groups = [np.arange(4 * i, 4 * i + 4) for i in range(60)]
    _, blocked, _ = fit_neighbours(copies.__getitem__, FEATURE_LAYERS, groups, seed=0)
    _, naive, _ = fit_neighbours(copies.__getitem__, FEATURE_LAYERS, singles(240), seed=0)
    assert blocked > 1.05 * naive


class Few:
    """A source that gives a few rows at a time, and never all."""

    def __init__(self, features, count):
        self.features, self.count = features, count

    def __call__(self, layer):
        raise AssertionError("all rows were asked for")

    def some(self, rows):
        return Few({layer: values[rows] for layer, values in self.features.items()}, self.count)

    def chunks(self, feature_layers):
        for at in range(0, len(self.features[FEATURE_LAYERS[0]]), self.count):
            yield {layer: self.features[layer][at : at + self.count] for layer in feature_layers}


def slowly(features, group_rows, points):
    """The limit by its definition: all pairs, sorted."""
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2, dtype=np.float64)
    for rows in group_rows:
        squares[np.ix_(rows, rows)] = np.inf
    k = min(5, len(points) - max(len(rows) for rows in group_rows))
    return np.quantile(np.sqrt(np.sort(squares, axis=1)[:, :k]).mean(axis=1), 0.99)


@pytest.mark.parametrize("count", [1, 13, 90])
@pytest.mark.parametrize("pairs", [1, 700, 10**6])
def test_few_rows_at_a_time_give_the_same_to_the_last_bit(monkeypatch, count, pairs):
    features = as32(make(n=90))
    group_rows = [np.array([0, 7, 8]), *[np.array([i]) for i in range(90) if i not in (0, 7, 8)]]
    whole, limit, k = fit_neighbours(features.__getitem__, FEATURE_LAYERS, group_rows, seed=0)
    monkeypatch.setattr(out_of_distribution, "PAIRS", pairs)
    cut, cut_limit, cut_k = fit_neighbours(Few(features, count), FEATURE_LAYERS, group_rows, seed=0)
    assert (cut_limit, cut_k) == (limit, k)
    for name in ("offset", "scale", "points"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))
    slow = slowly(features, group_rows, whole.points.astype(np.float32))
    assert limit == pytest.approx(slow, rel=1e-5)
    asked = join(as32(make(n=20, seed=2)))
    for one, other in zip(cut.nearest(asked, 3), whole.nearest(asked, 3), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(max_examples=80)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=6),
    st.integers(1, 7),
)
def test_of_equal_distances_the_first_rows_are_the_nearest(values, k):
    squares = np.array(values, dtype=float)
    distances, rows = out_of_distribution._nearest(squares.copy(), k)
    expected = np.argsort(squares, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(
        distances, np.sqrt(np.take_along_axis(squares, expected, axis=1)).mean(axis=1)
    )


def test_the_nearest_other_point_is_no_point_itself(monkeypatch):
    points = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    points[7] = points[3]
    monkeypatch.setattr(out_of_distribution, "PAIRS", 100)
    found = to_nearest_other(points, np.array([3, 20]))
    gaps = np.sqrt(((points[20] - np.delete(points, 20, axis=0)) ** 2).sum(axis=1))
    np.testing.assert_allclose(found, [0.0, gaps.min()], atol=1e-6)


def test_many_examples_are_compared_block_by_block(monkeypatch):
    """The same distances, and the same limit, as all at once."""
    rng = np.random.default_rng(3)
    features = {FEATURE_LAYERS[0]: rng.normal(size=(90, 12)).astype(np.float32)}
    group_rows = [np.array([row]) for row in range(80)] + [np.arange(80, 90)]
    whole = fit_neighbours(features.__getitem__, FEATURE_LAYERS[:1], group_rows, seed=0)
    monkeypatch.setattr(out_of_distribution, "CHUNK", 7)
    parted = fit_neighbours(features.__getitem__, FEATURE_LAYERS[:1], group_rows, seed=0)
    assert np.array_equal(parted[0].points, whole[0].points)
    assert parted[1] == pytest.approx(whole[1], rel=1e-12)
    assert parted[2] == whole[2]
    a, b = rng.normal(size=(2, 30, 5)).astype(np.float32)
    slow = ((a[:, None].astype(float) - b) ** 2).sum(axis=2)
    assert np.allclose(squared_distances(a, b), slow)
