import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve.kernels import Sketch, make_sketch


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 99))
def test_a_sketch_equals_its_dense_matrix(d, width, seed):
    rng = np.random.default_rng(seed)
    sketch = make_sketch(d, width, rng)
    dense = np.zeros((d, sketch.width))
    dense[np.arange(d), sketch.target] = sketch.sign
    x = rng.normal(size=(3, d))
    np.testing.assert_allclose(sketch.apply(x), x @ dense, atol=1e-5)


def test_inner_products_are_kept_on_average():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 500))
    kept = [np.prod(make_sketch(500, 64, rng).apply(x), axis=0).sum() for _ in range(400)]
    error = np.std(kept) / np.sqrt(400)
    assert abs(np.mean(kept) - x[0] @ x[1]) < 4 * error


@settings(max_examples=60)
@given(
    target=st.lists(st.integers(0, 5), max_size=40),
    spare=st.integers(0, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_every_feature_is_added_to_its_target_with_its_sign(target, spare, dtype):
    """Few features a target and many go different ways; targets without one get nothing."""
    rng = np.random.default_rng(len(target))
    width = max(target, default=0) + 1 + spare
    sign = rng.choice(np.float32([-1, 1]), size=len(target))
    features = rng.normal(size=(4, len(target))).astype(dtype)
    dense = np.zeros((len(target), width))
    dense[np.arange(len(target)), target] = sign
    sums = Sketch(np.array(target, np.int64), sign, width).apply(features)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, features @ dense, atol=1e-5)
    assert (sums[:, (dense == 0).all(axis=0)] == 0).all()


@pytest.mark.parametrize("width", [8, 30])
def test_a_row_does_not_depend_on_its_neighbours(width):
    sketch = make_sketch(100, width, np.random.default_rng(0))
    features = np.random.default_rng(1).normal(size=(9, 100)).astype(np.float32)
    alone = np.concatenate([sketch.apply(row[None]) for row in features])
    np.testing.assert_array_equal(sketch.apply(features), alone)
