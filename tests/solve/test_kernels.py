"""Scaled features, kernels, sketches and Laplace features against their dense definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve import kernels
from warmstart.solve.kernels import (
    MOST_ANCHORS,
    Sketch,
    anchors_of,
    apply_scaling,
    chunks,
    fit_laplace_features,
    fit_scaling,
    fit_scalings,
    fit_weighted_scaling,
    make_sketch,
    mixed_kernels,
    some,
    standardise,
)
from warmstart.solve.primal_ridge import spread_rows
from warmstart.solve.ridge import centred


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_features_are_divided_by_their_spread_and_the_median_one():
    features = draw(40, 3) * np.float32([0.1, 1.0, 10.0]) + 5
    spread = features.astype(float).std(axis=0)
    scaled = apply_scaling(features, fit_scaling(features))
    width = np.sqrt(spread**2 + np.median(spread) ** 2)
    slow = (features - features.mean(axis=0)) / width
    np.testing.assert_allclose(
        scaled, slow / np.sqrt((slow**2).sum(axis=1).mean()), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=30)
@given(st.integers(3, 30), st.integers(1, 60), st.integers(0, 1000), st.floats(0.01, 100))
def test_a_kernel_does_not_see_the_units_of_its_features(n, d, seed, unit):
    features = draw(n, d, seed)
    layers = {"a": features, "b": features * np.float32(unit) + np.float32(unit)}
    made = mixed_kernels(layers.items(), {"x": {"a": 1.0}, "y": {"b": 1.0}})
    np.testing.assert_allclose(made["x"], made["y"], rtol=1e-2, atol=1e-3)
    assert np.diag(centred(made["x"])).mean() == pytest.approx(1.0, rel=1e-4)


def test_a_mixed_kernel_is_the_gram_matrix_of_the_joined_features():
    a, b = draw(300, 4), draw(300, 7, 1)  # more rows than are weighted at a time
    probes = {"m": {"a": 0.25, "b": 0.75}, "unused": {}}
    layers = [("a", a), ("b", b), ("c", a)]  # nobody needs c
    mixed = mixed_kernels(layers, {"m": probes["m"]})["m"]
    parts = [
        np.sqrt(w) * apply_scaling(x, fit_scaling(x)).astype(float)
        for x, w in ((a, 0.25), (b, 0.75))
    ]
    joined = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(mixed, joined @ joined.T, atol=1e-5)


def test_constant_features_and_constant_layers_count_for_nothing():
    features = draw(8, 3, 2)
    padded = np.concatenate([features, np.full((8, 2), 1e5, np.float32)], axis=1)
    constant = np.full((8, 2), 7.0, np.float32)
    layers = [("a", features), ("p", padded), ("c", constant)]
    made = mixed_kernels(layers, {name: {name: 1.0} for name in "apc"})
    np.testing.assert_allclose(made["a"], made["p"], atol=1e-5)
    assert not made["c"].any()


# ---- weighted rows, and columns with units of their own


def weighted_rows():
    x = np.random.default_rng(0).normal(size=(12, 4))
    x[:, 1] = 3.0
    weights = np.random.default_rng(1).integers(1, 4, 12)
    return x, weights.astype(float), np.repeat(x, weights, axis=0)


def test_scalings_are_those_of_repeated_rows():
    x, weights, repeated = weighted_rows()
    made, plain = fit_weighted_scaling(x, weights), fit_scaling(repeated)
    np.testing.assert_allclose(made.offset, plain.offset)
    np.testing.assert_allclose(made.scale, plain.scale)
    made = standardise(x, weights)
    scaled = (repeated - made.offset) * made.scale
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    assert (scaled**2).mean(axis=0) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    units = np.array([1.0, 1e6, 1e-6, 1e3])
    other = standardise(x * units, weights)
    in_units = (x * units - other.offset) * other.scale
    np.testing.assert_allclose(in_units, (x - made.offset) * made.scale, atol=1e-9)


@pytest.mark.parametrize(("apart", "scale"), [(1.0, 0.0), (2.0, 0.5)])
def test_a_spread_within_rounding_is_none(apart, scale):
    """At 1e10 the bound is a spread of 1, a ten thousand millionth."""
    column = np.array([[1e10 - apart], [1e10 + apart]])
    assert standardise(column, np.ones(2)).scale.tolist() == [scale]


# ---- a few rows at a time


class Pieces:
    """A source that gives rows cut at some places, and never all."""

    def __init__(self, features, cuts):
        self.features, self.cuts = features, cuts

    def __call__(self, layer):
        raise AssertionError("all rows were requested")

    def some(self, rows):
        return Pieces({layer: values[rows] for layer, values in self.features.items()}, ())

    def chunks(self, feature_layers):
        parts = [np.split(self.features[layer], self.cuts) for layer in feature_layers]
        for part in zip(*parts, strict=True):
            yield dict(zip(feature_layers, part, strict=True))


def layers_of(n, seed=0):
    b = draw(n, 300, seed) ** 2 * np.float32(1e-3)
    b[:, 3] = 2.5  # does not vary
    return {"a": draw(n, 5, seed) * 1000 + 7, "b": b}


@settings(max_examples=60)
@given(n=st.integers(1, 60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_scalings_of_pieces_are_the_same_to_the_last_bit(n, cuts):
    features = layers_of(n, seed=n)
    made = fit_scalings(Pieces(features, sorted(min(cut, n) for cut in cuts)), ["a", "b"])
    for layer, values in features.items():
        expected = fit_scaling(values)
        np.testing.assert_array_equal(made[layer].offset, expected.offset)
        np.testing.assert_array_equal(made[layer].scale, expected.scale)


def test_any_function_is_a_source_and_one_with_pieces_gives_pieces():
    features, rows = layers_of(20), np.array([4, 0, 4])
    (whole,) = chunks(features.__getitem__, ["b"])
    np.testing.assert_array_equal(whole["b"], features["b"])
    np.testing.assert_array_equal(some(features.__getitem__, rows)("a"), features["a"][rows])
    cut = [*chunks(Pieces(features, (6, 13)), ["a"])]
    assert [len(chunk["a"]) for chunk in cut] == [6, 7, 7]
    (chosen,) = chunks(some(Pieces(features, ()), rows), ["b"])
    np.testing.assert_array_equal(chosen["b"], features["b"][rows])


# ---- sketches


@settings(max_examples=60)
@given(
    n=st.integers(0, 60),
    n_targets=st.integers(1, 6),
    spare=st.integers(0, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_a_sketch_equals_its_dense_matrix(n, n_targets, spare, dtype):
    """Few features a target and many go different ways; targets without one get nothing."""
    rng = np.random.default_rng(n)
    target = rng.integers(n_targets, size=n)
    width = n_targets + spare
    sign = rng.choice(np.float32([-1, 1]), size=n)
    features = rng.normal(size=(4, n)).astype(dtype)
    dense = np.zeros((n, width))
    dense[np.arange(n), target] = sign
    sketch = Sketch(target, sign, width)
    sums = sketch.apply(features)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, features @ dense, atol=1e-5)
    assert (sums[:, (dense == 0).all(axis=0)] == 0).all()
    for number, row in enumerate(features):  # a row does not depend on its neighbours
        np.testing.assert_array_equal(sketch.apply(row[None])[0], sums[number])


def test_inner_products_are_kept_on_average():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 500))
    products = [np.prod(make_sketch(500, 64, rng).apply(x), axis=0).sum() for _ in range(400)]
    assert abs(np.mean(products) - x[0] @ x[1]) < 4 * np.std(products) / np.sqrt(400)
    every = make_sketch(3, 8, rng).apply(x[:, :3])
    np.testing.assert_array_equal(every, x[:, :3].astype(np.float32))
    counts = np.bincount(make_sketch(500, 64, rng).target)
    assert {*counts} == {7, 8}  # spread evenly


# ---- features of a Laplace kernel


def laplace(a, b, width):
    apart = np.abs(a[:, None] - b[None]).sum(axis=2) / np.sqrt(a.shape[1])
    return np.exp(-apart / width)


def test_a_ridge_on_laplace_features_is_kernel_ridge():
    rng = np.random.default_rng(0)
    rows, new, values = rng.normal(size=(25, 3)), rng.normal(size=(6, 3)), rng.normal(size=(25, 1))
    made = fit_laplace_features(rows, 1.5)
    weights, bias = spread_rows(made.of(rows), np.ones(25)).solve(values, 0.3)
    kernel = laplace(rows, rows, 1.5)
    centre = np.eye(25) - 1 / 25
    dual = np.linalg.solve(centre @ kernel @ centre + 0.3 * np.eye(25), centre @ values)
    shift = (values - kernel @ dual - 0.3 * dual).mean()
    slow = laplace(new, rows, 1.5) @ dual + shift
    np.testing.assert_allclose(made.of(new) @ weights + bias, slow, rtol=1e-6, atol=1e-9)


def test_of_many_rows_some_are_anchors(monkeypatch):
    rows = np.random.default_rng(2).normal(size=(1500, 2))
    assert len(anchors_of(rows)) == MOST_ANCHORS
    made = fit_laplace_features(rows[:40], 2.0)
    whole = made.of(rows)
    monkeypatch.setattr(kernels, "_LAPLACE_ROWS", 700)
    np.testing.assert_allclose(made.of(rows), whole)
