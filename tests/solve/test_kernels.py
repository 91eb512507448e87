import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve import kernels
from warmstart.solve.ridge import centred


def draw(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@settings(max_examples=30)
@given(st.integers(3, 30), st.integers(1, 60), st.integers(0, 1000), st.floats(0.01, 100))
def test_a_kernel_does_not_see_the_units_of_its_features(n, d, seed, unit):
    features = draw(n, d, seed)
    feature_layers = {"a": features, "b": features * np.float32(unit) + np.float32(unit)}
    made = kernels.mixed_kernels(feature_layers.items(), {"x": {"a": 1.0}, "y": {"b": 1.0}})
    np.testing.assert_allclose(made["x"], made["y"], rtol=1e-2, atol=1e-3)
    assert np.diag(centred(made["x"])).mean() == pytest.approx(1.0, rel=1e-4)


def test_a_mixed_kernel_is_the_gram_matrix_of_the_joined_features():
    a, b = draw(9, 4, 0), draw(9, 7, 1)
    mixed = kernels.mixed_kernels([("a", a), ("b", b)], {"m": {"a": 0.25, "b": 0.75}})["m"]
    joined = np.concatenate(
        [
            np.sqrt(w) * kernels.apply_scaling(x, kernels.fit_scaling(x))
            for x, w in ((a, 0.25), (b, 0.75))
        ],
        axis=1,
    )
    np.testing.assert_allclose(mixed, joined @ joined.T, atol=1e-5)


def test_constant_features_and_constant_taps_count_for_nothing():
    features = draw(8, 3, 2)
    padded = np.concatenate([features, np.full((8, 2), 1e5, np.float32)], axis=1)
    constant = np.full((8, 2), 7.0, np.float32)
    made = kernels.mixed_kernels(
        [("a", features), ("p", padded), ("c", constant)],
        {"a": {"a": 1.0}, "p": {"p": 1.0}, "c": {"c": 1.0}},
    )
    np.testing.assert_allclose(made["a"], made["p"], atol=1e-5)
    assert not made["c"].any()
