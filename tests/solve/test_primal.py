"""The primal and the dual form are the same regression."""

import numpy as np
import pytest

from warmstart.solve import primal, ridge


@pytest.mark.parametrize(("n", "d"), [(40, 6), (15, 30)])
@pytest.mark.parametrize("penalty", [0.05, 2.0])
def test_primal_equals_dual_in_predictions_and_blocks(n, d, penalty):
    rng = np.random.default_rng(n + d)
    features = (rng.normal(size=(n, d)) + 1).astype(np.float32)
    targets = np.eye(3)[rng.integers(3, size=n)]
    kernel = features.astype(float) @ features.T.astype(float)
    groups = [np.arange(0, 3), np.arange(3, 5), *[np.array([i]) for i in range(5, n)]]
    dual, space = ridge.fit(kernel, targets, penalty), primal.spectrum(features)
    np.testing.assert_allclose(
        primal.left_out(space, targets, penalty, groups),
        ridge.left_out(dual, groups),
        rtol=1e-5,
        atol=1e-6,
    )
    weights, b = primal.solve(space, targets, penalty)
    np.testing.assert_allclose(
        features @ weights + b,
        kernel @ dual.coefficients + ridge.intercept(kernel, dual, penalty),
        atol=1e-5,
    )
