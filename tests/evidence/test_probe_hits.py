"""A head that is judged on rows it has not seen: the same as fitting it anew for each."""

import numpy as np
import pytest
from scipy.special import softmax

from refit import kernel_of, left_out, singles, told_apart
from warmstart.evidence.probe import PENALTIES, best_left_out, best_probabilities
from warmstart.solve.calibration import fit_temperature, log_losses


def groups_of(rng, n, size):
    return np.array_split(rng.permutation(n), n // size)


@pytest.mark.parametrize("size", [1, 3])
def test_it_says_what_a_head_fitted_without_the_block_says(size):
    rng = np.random.default_rng(size)
    features, labels = told_apart(rng, 30, 3, 1.5)
    group_rows = groups_of(rng, 30, size)
    kernels = [kernel_of(rng.normal(size=(30, 4))), kernel_of(features)]
    head = best_left_out(kernels, labels, group_rows, 3)
    slow = left_out(kernels[head.number], np.eye(3)[labels], head.penalty, group_rows)
    np.testing.assert_allclose(head.scores, slow, atol=1e-8)
    np.testing.assert_array_equal(head.hits(labels), slow.argmax(axis=1) == labels)
    logits = head.calibration.scale * slow + head.calibration.bias
    np.testing.assert_allclose(head.probabilities(), softmax(logits, axis=1), atol=1e-8)


def test_the_kernel_and_penalty_of_least_log_loss_are_kept():
    rng = np.random.default_rng(0)
    features, labels = told_apart(rng, 40, 2, 1.0)
    kernels = [kernel_of(features[:, :2]), kernel_of(features), kernel_of(features[:, 2:])]
    losses = {}
    for number, kernel in enumerate(kernels):
        for penalty in PENALTIES:
            scores = left_out(kernel, np.eye(2)[labels], penalty, singles(40))
            loss = log_losses(scores, labels, fit_temperature(scores, labels)).mean()
            losses[number, penalty] = loss
    head = best_left_out(kernels, labels, singles(40), 2)
    assert (head.number, head.penalty) == min(losses, key=losses.get)
    assert head.number != 2


def test_a_class_that_lies_in_one_block_cannot_be_told_without_it():
    labels = np.repeat([0, 1, 2], [4, 8, 8])
    group_rows = [np.arange(4), *np.split(np.arange(4, 20), 16)]
    head = best_left_out([kernel_of(np.eye(3)[labels])], labels, group_rows, 3)
    assert head.hits(labels)[:4].sum() == 0
    assert head.hits(labels)[4:].all()


def test_a_class_without_rows_is_never_named():
    rng = np.random.default_rng(1)
    features, labels = told_apart(rng, 24, 2, 3.0)
    head = best_left_out([kernel_of(features)], labels, singles(24), 3)
    assert head.scores.shape == (24, 3)
    assert (head.scores.argmax(axis=1) < 2).all()


def test_probabilities_alone_are_those_of_the_best_head():
    rng = np.random.default_rng(2)
    features, labels = told_apart(rng, 30, 3, 1.0)
    kernels = [kernel_of(features[:, :1]), kernel_of(features), kernel_of(features[:, 1:])]
    group_rows = groups_of(rng, 30, 2)
    np.testing.assert_array_equal(
        best_probabilities(iter(kernels), labels, group_rows, 3),
        best_left_out(kernels, labels, group_rows, 3).probabilities(),
    )
