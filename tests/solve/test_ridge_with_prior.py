"""The closed forms of a ridge around prior scores against minimising anew without the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from warmstart.solve import ridge, ridge_with_prior


def refitted(features, targets, prior, learn, rest, penalty):
    """Scores of `rest`: D, b and a >= 0 of least squares on `learn`, by one stacked system.

    The columns of the targets share the factor, so they are stacked into one vector.
    """
    k, d = targets.shape[1], features.shape[1]
    design = np.hstack([features[learn], np.ones((len(learn), 1))])
    shrink = np.hstack([np.sqrt(penalty) * np.eye(d), np.zeros((d, 1))])
    block = np.vstack([design, shrink])
    right = np.vstack([targets[learn], np.zeros((d, k))])
    offset = np.vstack([prior[learn], np.zeros((d, k))])
    # What the free part leaves of both sides; on that the factor is a regression of one column.
    solve = np.linalg.lstsq(block, np.hstack([right, offset]), rcond=None)[0]
    left = np.hstack([right, offset]) - block @ solve
    factor, _ = nnls(left[:, k:].reshape(-1, 1), left[:, :k].reshape(-1))
    weights = solve[:, :k] - factor[0] * solve[:, k:]
    new = np.hstack([features[rest], np.ones((len(rest), 1))])
    return factor[0] * prior[rest] + new @ weights


def problem(n, d, seed, classes=3, signal=1.0, scale=4.0):
    """Features, one-hot targets, and the scores of an older head that knows something."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    targets = np.eye(classes)[labels]
    features = rng.normal(size=(n, d)) + 2.0
    prior = scale * (features @ rng.normal(size=(d, classes)) / d + signal * targets) + 7.0
    prior[:, -1] = 0.0  # a class that the older head does not know
    return features, targets, prior


def groups_of(n, count, seed):
    labels = np.random.default_rng(seed).integers(count, size=n)
    return [np.flatnonzero(labels == b) for b in np.unique(labels)]


sizes = st.tuples(st.integers(8, 25), st.integers(1, 40), st.integers(0, 10_000))
signals = st.sampled_from([0.0, 1.0, -1.0])
close = {"rtol": 1e-5, "atol": 1e-6}


@settings(max_examples=40)
@given(sizes, signals, st.integers(2, 5))
def test_leave_group_out_equals_minimising_without_each_group(size, signal, n_groups):
    features, targets, prior = problem(*size, signal=signal)
    groups = groups_of(len(targets), n_groups, size[2])
    groups = [*groups[:-1], *groups[-1][:, None]]  # and single rows
    if len(groups) < 2 or len(targets) - max(map(len, groups)) < 3:
        return
    fast = ridge_with_prior.left_out(
        ridge_with_prior.fit(features @ features.T, targets, prior, 0.2), groups
    )
    for block in groups:
        others = np.setdiff1d(np.arange(len(targets)), block)
        slow = refitted(features, targets, prior, others, block, 0.2)
        np.testing.assert_allclose(fast[block], slow, **close)


@settings(max_examples=40)
@given(sizes, signals, st.integers(4, 6))
def test_nested_folds_equal_minimising_on_the_rest(size, signal, n_groups):
    features, targets, prior = problem(*size, signal=signal)
    groups = groups_of(len(targets), n_groups, size[2])
    longest = sum(sorted(map(len, groups))[-2:])
    if len(groups) < 3 or len(targets) - longest < 3:
        return
    fitted = ridge_with_prior.fit(features @ features.T, targets, prior, 0.2)
    for held_out in groups:
        keep, inner, outer = ridge_with_prior.nested(fitted, held_out, groups)
        slow = refitted(features, targets, prior, keep, held_out, 0.2)
        np.testing.assert_allclose(outer, slow, **close)
        for rows in groups:
            if rows is held_out:
                continue
            learn = np.setdiff1d(keep, rows)
            slow = refitted(features, targets, prior, learn, rows, 0.2)
            np.testing.assert_allclose(inner[np.isin(keep, rows)], slow, **close)


def test_predictions_of_new_rows_equal_minimising():
    features, targets, prior = problem(30, 6, 1)
    learn, new = np.arange(24), np.arange(24, 30)
    kernel = features[learn] @ features[learn].T
    fitted = ridge_with_prior.fit(kernel, targets[learn], prior[learn], 0.7)
    factor, coefficients = ridge_with_prior.solve(fitted)
    said = factor * prior[new] + features[new] @ features[learn].T @ coefficients
    said += ridge_with_prior.intercept(kernel, fitted, 0.7)
    slow = refitted(features, targets, prior, learn, new, 0.7)
    assert factor > 0
    np.testing.assert_allclose(said, slow, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_the_scale_of_the_older_scores_does_not_matter(scale):
    features, targets, prior = problem(30, 40, 3)
    rows = [np.array([i]) for i in range(30)]
    kernel = features @ features.T
    one = ridge_with_prior.left_out(ridge_with_prior.fit(kernel, targets, prior, 0.2), rows)
    two = ridge_with_prior.left_out(
        ridge_with_prior.fit(kernel, targets, scale * prior - 5.0, 0.2), rows
    )
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("prior", [np.zeros((12, 3)), np.full((12, 3), 7.0)])
def test_scores_that_say_nothing_leave_the_plain_ridge(prior):
    features, targets, _ = problem(12, 5, 2)
    rows = [np.array([i]) for i in range(12)]
    kernel = features @ features.T
    plain = ridge.fit(kernel, targets, 0.3)
    fitted = ridge_with_prior.fit(kernel, targets, prior, 0.3)
    np.testing.assert_allclose(ridge_with_prior.left_out(fitted, rows), ridge.left_out(plain, rows))
    assert ridge_with_prior.solve(fitted)[0] == 0.0
    np.testing.assert_allclose(
        ridge_with_prior.intercept(kernel, fitted, 0.3), ridge.intercept(kernel, plain, 0.3)
    )


def test_answers_that_are_the_wrong_way_round_are_no_prior():
    features, targets, _ = problem(20, 5, 4)
    assert (
        ridge_with_prior.solve(ridge_with_prior.fit(features @ features.T, targets, -targets, 0.3))[
            0
        ]
        == 0.0
    )


@pytest.mark.parametrize("penalty", [1e-2, 0.1, 1.0, 10.0])
def test_random_labels_stay_at_chance(penalty):
    """An older head of the very same features, judged on labels that nothing can know."""
    rng, right = np.random.default_rng(5), []
    for _ in range(20):
        labels = rng.permutation(np.arange(80) % 2)
        features = rng.normal(size=(80, 400))
        prior = features @ rng.normal(size=(400, 2))
        kernel = features @ features.T / 400
        fitted = ridge_with_prior.fit(kernel, np.eye(2)[labels], prior, penalty)
        said = ridge_with_prior.left_out(fitted, [np.array([i]) for i in range(80)])
        right.append((said.argmax(axis=1) == labels).mean())
    # Below is no harm: of balanced labels the rest leans the other way.
    assert np.mean(right) < 0.5 + 3 * 0.5 / np.sqrt(80 * 20)
