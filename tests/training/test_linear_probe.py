"""The linear probe on random features: every family, nesting, no signal where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from random_features import FEATURE_LAYERS, make, problem_of
from warmstart.events import drain
from warmstart.planning.rules import probe_layers
from warmstart.solve import ridge
from warmstart.solve.calibration import fit_temperature
from warmstart.solve.kernels import mixed_kernels
from warmstart.training.head_families import SelectionProblem
from warmstart.training.linear_probe import calibrate_head, families, fit_head


def candidates(features, names, penalties=(0.01, 0.1, 1.0), kernel=True):
    shapes = probe_layers(FEATURE_LAYERS)
    kernels = mixed_kernels(features.items(), shapes) if kernel else {}
    return families(names, shapes, kernels, features.__getitem__, penalties, seed=0)


def logits(fit, features):
    joined = np.concatenate([features[layer] for layer in fit.feature_layers], axis=1)
    return joined @ fit.weight.T + fit.bias


@pytest.mark.parametrize("name", ["class-mean", "logistic", "last", "equal"])
def test_the_refitted_head_is_linear_in_its_feature_layers_and_learns(name):
    features, labels = make(90, signal=2.5)
    family = candidates(features, [name])[name]
    problem = problem_of(labels)
    penalty = family.trials(problem)[-1][0].penalty
    fit = drain(fit_head({name: family}, problem))
    refit = family.refit(problem, penalty)
    joined = sum(features[layer] @ w for layer, w in refit.weights.items()) + refit.bias
    assert (joined.argmax(axis=1) == labels).mean() > 0.8
    assert (logits(fit, features).argmax(axis=1) == labels).mean() > 0.8
    assert (fit.probabilities.argmax(axis=1) == labels).mean() > 0.7


def test_a_kernel_head_predicts_what_its_dual_form_predicts():
    """Weights over feature layers against refitting without a fold: the same scores on new rows."""
    features, labels = make(90)
    problem = problem_of(labels)
    keep, fold = next(iter(problem.training_sets()))
    family = candidates(features, ["late"], penalties=(0.1,))["late"]
    outside = family.trials(problem)[0][0].outside
    assert outside.shape == (len(fold), 3)
    # The scaling is shared over training rows, so the direct fit borrows it.
    shapes = probe_layers(FEATURE_LAYERS)
    kernel = mixed_kernels(features.items(), shapes)["late"]

    targets = np.eye(3)[labels]
    inner = kernel[np.ix_(keep, keep)]
    dual = ridge.fit(inner, targets[keep], 0.1)
    direct = kernel[np.ix_(fold, keep)] @ dual.coefficients + ridge.intercept(inner, dual, 0.1)
    np.testing.assert_allclose(outside, direct, atol=1e-6)


def test_primal_and_dual_heads_agree():
    features, labels = make(90)
    problem = problem_of(labels)
    dual = candidates(features, ["late"])["late"]
    primal = candidates(features, ["late"], kernel=False)["late"]
    for a, b in zip(dual.trials(problem), primal.trials(problem), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x.outside, y.outside, atol=1e-4)
            np.testing.assert_allclose(x.losses, y.losses, atol=1e-3)
    a, b = dual.refit(problem, 0.1), primal.refit(problem, 0.1)
    for layer in a.weights:
        np.testing.assert_allclose(a.weights[layer], b.weights[layer], atol=1e-4)


def test_every_row_is_held_out_once_and_by_its_block():
    features, labels = make(n=60)
    group_rows = tuple(np.arange(3 * i, 3 * i + 3) for i in range(20))
    problem = problem_of(labels, group_rows=group_rows)
    fit = drain(fit_head(candidates(features, ["last", "equal"]), problem))
    assert np.isfinite(fit.probabilities).all()
    assert all(len(set(fit.fold[rows])) == 1 for rows in group_rows)


def test_a_hold_out_is_scored_but_not_chosen_on():
    features, labels = make(90)
    group_rows = tuple(np.array([i]) for i in range(90))
    problem = SelectionProblem(labels, 3, group_rows, (np.arange(60, 90),))
    one = drain(fit_head(candidates(features, ["last", "equal"]), problem, choose_in=0))
    changed = labels.copy()
    changed[60:] = np.random.default_rng(1).permutation(changed[60:])
    other = SelectionProblem(changed, 3, group_rows, (np.arange(60, 90),))
    two = drain(fit_head(candidates(features, ["last", "equal"]), other, choose_in=0))
    assert (one.name, one.penalty) == (two.name, two.penalty)
    np.testing.assert_allclose(one.probabilities[60:], two.probabilities[60:], rtol=1e-6)
    assert np.isnan(one.probabilities[:60]).all()


def test_random_labels_are_estimated_at_chance():
    """Choice of head, penalty and temperature together must not flatter the estimate."""
    right = []
    for seed in range(12):
        features, labels = make(n=60, seed=seed, signal=0.0)
        fit = drain(
            fit_head(
                candidates(features, ["class-mean", "last", "late", "equal"]), problem_of(labels)
            )
        )
        right.append((fit.probabilities.argmax(axis=1) == labels).mean())
    assert np.mean(right) < 1 / 3 + 3 * np.sqrt(2 / 9 / 60 / 12)


def test_a_class_inside_one_block_does_not_break_the_fit():
    features, labels = make(n=40, classes=3)
    labels = np.where(np.arange(40) < 3, 2, np.arange(40) % 2)
    group_rows = (np.arange(3), *(np.array([i]) for i in range(3, 40)))
    fit = drain(
        fit_head(
            candidates(features, ["class-mean", "last", "logistic"]),
            problem_of(labels, group_rows=group_rows),
        )
    )
    assert np.isfinite(fit.probabilities).all()


def test_a_trained_head_is_calibrated_by_rows_that_were_held_out():
    features, labels = make(36)
    head = drain(fit_head(candidates(features, ["last"]), problem_of(labels)))
    fold, said = np.arange(36) % 2, head.scale * np.eye(3)[labels]
    found = calibrate_head(head, said, labels, fold, np.arange(36))
    assert found.calibration.scale == fit_temperature(np.eye(3)[labels], labels).scale
    assert (found.probabilities.argmax(axis=1) == labels).all()
    assert (found.fold == fold).all()
