"""What closed forms give for fixed data, to the last digit that another machine keeps."""

from __future__ import annotations

import numpy as np
import pytest

import golden
from warmstart.solve import (
    calibration,
    classifiers,
    kernels,
    primal_ridge,
    ridge,
    ridge_with_prior,
)
from warmstart.solve.calibration import Calibration

N, D, K = 40, 6, 3
LABELS = np.arange(N) % K
TARGETS = np.eye(K)[LABELS]
GROUPS = [np.array([i, i + 1]) for i in range(0, N, 2)]


def rows(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(N, D)) * np.geomspace(0.1, scale * 10, D) + np.eye(K, D)[LABELS]
    found[:, 3] = 2.0  # one column without spread
    return found


def kernel(seed=0):
    found = kernels.mixed_kernels([("x", rows(seed).astype(np.float32))], {"x": {"x": 1.0}})
    return found["x"]


def of_kernels():
    one, other = (rows(seed).astype(np.float32) for seed in (0, 1))
    scaling = kernels.fit_scaling(one)
    mixed = kernels.mixed_kernels(
        [("a", one), ("b", other)], {"a": {"a": 1.0}, "both": {"a": 0.25, "b": 0.75}}
    )
    return scaling, kernels.apply_scaling(one, scaling)[:3], [k[:2] for k in mixed.values()]


def of_ridge():
    dual = ridge.fit(kernel(), TARGETS, 0.3)
    held = np.array([0, 1, 8, 9])
    return (
        dual.coefficients[:4],
        ridge.intercept(kernel(), dual, 0.3),
        ridge.left_out(dual, GROUPS)[:6],
        ridge.nested(dual, held, GROUPS),
    )


def of_prior():
    known = 2 * TARGETS + np.random.default_rng(2).normal(size=(N, K))
    anchored = ridge_with_prior.fit(kernel(), TARGETS, known, 0.3)
    held = np.array([2, 3, 20, 21])
    return (
        ridge_with_prior.solve(anchored)[0],
        ridge_with_prior.intercept(kernel(), anchored, 0.3),
        ridge_with_prior.left_out(anchored, GROUPS)[:6],
        ridge_with_prior.nested(anchored, held, GROUPS),
    )


def of_primal():
    halves = [
        (rows()[part].astype(np.float32), TARGETS[part]) for part in (slice(17), slice(17, N))
    ]
    once = primal_ridge.solve_cholesky(primal_ridge.accumulate(halves, D, K), 0.5)
    space = primal_ridge.spectrum(primal_ridge.accumulate(halves, D, K))
    rotated = space.rotate(rows().astype(np.float32))
    told = primal_ridge.left_out(space, rotated, TARGETS, 0.5, GROUPS)
    return once, primal_ridge.solve(space, 0.5), told[:6]


def of_weighted():
    weights = 1.0 + np.arange(N) % 4
    spread = primal_ridge.spread_rows(rows(), weights)
    few = primal_ridge.spread_rows(rows()[:4], weights[:4])
    return (
        kernels.standardise(rows(), weights),
        kernels.fit_weighted_scaling(rows(), weights),
        spread.solve(TARGETS, 0.7),
        few.solve(TARGETS[:4], 0.7),
        spread.left_out(TARGETS, 0.7)[:6],
        spread.left_out(TARGETS, 0.7, GROUPS)[:6],
    )


def of_temperature():
    scores = rows(3)[:, :K]
    sloped = Calibration(1.7, np.array([0.1, -0.2, 0.1]), np.array([2.0, 0.5, 1.0]))
    weights = 1.0 + np.arange(N) % 3
    many = np.tile(scores, (3, 1)), np.tile(LABELS, 3)
    return (
        sloped.scaled(scores)[:3],
        calibration.fit_temperature(scores, LABELS),
        calibration.fit_temperature(scores, LABELS, weights),
        calibration.fit_temperature_and_bias(*many),
        calibration.log_losses(scores, LABELS, Calibration(0.8, np.zeros(K)))[:6],
        calibration.probabilities(scores, Calibration(0.8, np.arange(K) * 0.1))[:3],
    )


def of_platt():
    scores, truth = rows(4)[:, :2], np.stack([LABELS == 0, LABELS > 0], 1).astype(float)
    return calibration.fit_platt(scores, truth), calibration.log_losses_of(scores, truth)[:6]


def of_bends():
    scaled = rows()[:, :2] / 3
    anchors = kernels.anchors_of(scaled)
    found = kernels.fit_laplace_features(anchors, 1.5).of(scaled[:4])
    return len(anchors), found @ found.T


def of_prototype():
    weights, shift = classifiers.class_mean_weights(kernel(), LABELS, K + 1)
    told = classifiers.left_out_class_means(kernel(), LABELS, K, GROUPS)
    return weights[:4], shift, told[:6]


def of_logistic():
    fits = classifiers.logistic_path(rows() / 5, LABELS, K, [0.01, 1.0])
    return [fit.scores(rows()[:3] / 5) for fit in fits]


def of_projection():
    sketch = kernels.make_sketch(50, 7, np.random.default_rng(5))
    features = np.random.default_rng(6).normal(size=(4, 50))
    return sketch.target, sketch.sign, sketch.apply(features)


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
