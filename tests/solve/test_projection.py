import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.solve.projection import make_sketch


@settings(max_examples=30, deadline=None)
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
