"""What is fitted to a few rows at a time is what is fitted to all."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve.kernels import chunks, fit_scaling, fit_scalings, some


class Few:
    """A source that gives rows cut at some places, and never all."""

    def __init__(self, features, cuts):
        self.features, self.cuts = features, cuts

    def __call__(self, layer):
        raise AssertionError("all rows were asked for")

    def some(self, rows):
        return Few({layer: values[rows] for layer, values in self.features.items()}, ())

    def chunks(self, feature_layers):
        parts = [np.split(self.features[layer], self.cuts) for layer in feature_layers]
        for part in zip(*parts, strict=True):
            yield dict(zip(feature_layers, part, strict=True))


def make(n, seed=0):
    rng = np.random.default_rng(seed)
    a = (rng.normal(size=(n, 5)) * 1000 + 7).astype(np.float32)
    b = (rng.exponential(size=(n, 300)) * 1e-3).astype(np.float32)
    b[:, 3] = 2.5  # does not vary
    return {"a": a, "b": b}


@settings(max_examples=60)
@given(n=st.integers(1, 60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_scalings_are_the_same_to_the_last_bit(n, cuts):
    features = make(n, seed=n)
    found = fit_scalings(Few(features, sorted(min(cut, n) for cut in cuts)), ["a", "b"])
    for layer, values in features.items():
        expected = fit_scaling(values)
        np.testing.assert_array_equal(found[layer].offset, expected.offset)
        np.testing.assert_array_equal(found[layer].scale, expected.scale)


def test_any_function_is_a_source():
    features = make(9)
    (whole,) = chunks(features.__getitem__, ["b"])
    np.testing.assert_array_equal(whole["b"], features["b"])
    rows = np.array([4, 0, 4])
    np.testing.assert_array_equal(some(features.__getitem__, rows)("a"), features["a"][rows])
    for layer, scaling in fit_scalings(features.__getitem__, ["b"]).items():
        np.testing.assert_array_equal(scaling.offset, fit_scaling(features[layer]).offset)


def test_a_source_that_can_is_asked_for_parts():
    features = make(20)
    found = [*chunks(Few(features, (6, 13)), ["a"])]
    assert [len(chunk["a"]) for chunk in found] == [6, 7, 7]
    (chosen,) = chunks(some(Few(features, ()), np.array([3, 1])), ["b"])
    np.testing.assert_array_equal(chosen["b"], features["b"][[3, 1]])
