"""Heads for many rows: the same as those for few, whatever is read at a time and held out."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from warmstart.planning.rules import probe_layers
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import mixed_kernels
from warmstart.training import sketched_ridge
from warmstart.training.head_families import KernelRidge
from warmstart.training.selection import SelectionProblem
from warmstart.training.sketched_ridge import SketchedRidge, group_chunks

FEATURE_LAYERS = (
    FeatureLayer(block=1, pool="avg"),
    FeatureLayer(block=2, pool="avg"),
    FeatureLayer(block=3, pool="neck"),
)
WIDTHS = (4, 6, 9)
N, CLASSES = 120, 3


def make(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(N) % CLASSES)
    features = {
        layer: (rng.normal(size=(N, d)) + 1.5 * np.eye(CLASSES, d)[labels]).astype(np.float32)
        for layer, d in zip(FEATURE_LAYERS, WIDTHS, strict=True)
    }
    return features, labels


@dataclass
class Few:
    """A source that never gives more than a few rows at a time, and counts the most it gave."""

    features: dict
    most: list

    def __call__(self, layer):
        raise AssertionError("all rows were asked for")

    def some(self, rows):
        return Few({layer: values[rows] for layer, values in self.features.items()}, self.most)

    def chunks(self, feature_layers):
        n = len(next(iter(self.features.values())))
        for at in range(0, n, 7):
            self.most.append(min(7, n - at))
            yield {layer: self.features[layer][at : at + 7] for layer in feature_layers}


def problem_of(labels, sizes):
    """Blocks of these sizes, then singles; five folds of whole blocks."""
    ends = np.cumsum([0, *sizes])
    order = np.random.default_rng(3).permutation(N)
    group_rows = [np.sort(order[a:b]) for a, b in pairwise(ends)]
    group_rows += [np.array([row]) for row in np.sort(order[ends[-1] :])]
    folds = tuple(np.sort(np.concatenate(group_rows[k::5])) for k in range(5))
    return SelectionProblem(labels, CLASSES, tuple(group_rows), folds)


def same(one, other, atol):
    for a, b in zip([*one], [*other], strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.penalty == y.penalty
            np.testing.assert_allclose(x.outside, y.outside, atol=atol)
            np.testing.assert_allclose(x.losses, y.losses, atol=atol)


@pytest.mark.parametrize("sizes", [(), (2, 5, 3), (30, 2), (24,)])
def test_rows_seen_a_few_at_a_time_give_the_same_head_as_a_kernel(monkeypatch, sizes):
    monkeypatch.setattr(sketched_ridge, "CHUNK_ROWS", 16)
    monkeypatch.setattr(sketched_ridge, "LARGE", 24)
    features, labels = make()
    problem, shape = problem_of(labels, sizes), probe_layers(FEATURE_LAYERS)["late"]
    penalties, most = (0.01, 0.1, 1.0), []
    streamed = SketchedRidge(shape, Few(features, most), penalties, 0)
    kernel = mixed_kernels(features.items(), {"late": shape})["late"]
    dual = KernelRidge(kernel, shape, features.__getitem__, penalties)
    same(streamed.trials(problem), dual.trials(problem), atol=1e-3)
    one, other = streamed.refit(problem, 0.1), dual.refit(problem, 0.1)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    np.testing.assert_allclose(one.bias, other.bias, atol=1e-4)
    for layer, weights in other.weights.items():
        np.testing.assert_allclose(one.weights[layer], weights, atol=1e-4)
    assert max(most) == 7


def test_what_is_read_at_a_time_changes_nothing(monkeypatch):
    """With a sketch that folds features together, and blocks of all kinds."""
    monkeypatch.setattr(sketched_ridge, "SKETCH_WIDTH", 8)
    features, labels = make()
    problem, shape = problem_of(labels, (20, 4, 2)), probe_layers(FEATURE_LAYERS)["equal"]
    whole = SketchedRidge(shape, features.__getitem__, (0.01, 1.0), 0)
    expected, refitted = [*whole.trials(problem)], whole.refit(problem, 1.0)
    for stretch, large in ((9, 1000), (64, 20), (1, 3)):
        monkeypatch.setattr(sketched_ridge, "CHUNK_ROWS", stretch)
        monkeypatch.setattr(sketched_ridge, "LARGE", large)
        streamed = SketchedRidge(shape, Few(features, []), (0.01, 1.0), 0)
        same(streamed.trials(problem), expected, atol=1e-6)
        found = streamed.refit(problem, 1.0)
        np.testing.assert_allclose(found.scores, refitted.scores, atol=1e-6)
        np.testing.assert_allclose(found.bias, refitted.bias, atol=1e-6)


def test_stretches_hold_whole_blocks_and_every_row_once(monkeypatch):
    monkeypatch.setattr(sketched_ridge, "CHUNK_ROWS", 5)
    group_rows = [np.array([0, 3]), np.array([1, 2, 4]), np.array([5]), np.arange(6, 20)]
    found = [*group_chunks(group_rows)]
    assert [len(rows) for rows, _ in found] == [5, 1, 14]
    assert np.concatenate([rows for rows, _ in found]).tolist() == [0, 3, 1, 2, 4, *range(5, 20)]
    for rows, within in found:
        assert np.concatenate(within).tolist() == list(range(len(rows)))
        assert all(any(np.array_equal(rows[w], g) for g in group_rows) for w in within)
    assert [*group_chunks([])] == []
