"""Families of heads against minimising anew; no row has a say in its own answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import nnls

from random_features import FEATURE_LAYERS, WIDTHS, make, problem_of
from warmstart.events import drain
from warmstart.planning.rules import probe_layers
from warmstart.solve.calibration import Calibration, fit_temperature, log_probabilities
from warmstart.solve.kernels import apply_scaling, fit_scaling, mixed_kernels
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.regress import Regression
from warmstart.training import head_families
from warmstart.training.head_families import (
    KernelRidge,
    PriorRidge,
    SelectionProblem,
    SketchedRidge,
    prior_of,
)
from warmstart.training.linear_probe import families, fit_head

OLD = ("ant", "bee", "cat", "dog")


def older(
    classes=("cat", "ant", "cow"), feature_layers=FEATURE_LAYERS[1:], seed=9, signal=1.5, names=OLD
):
    """An older head of four classes on two feature layers, in the order of the new classes."""
    rng = np.random.default_rng(seed)
    widths = [WIDTHS[FEATURE_LAYERS.index(layer)] for layer in feature_layers]
    weight = rng.normal(size=(len(names), sum(widths)))
    for number, name in enumerate(names):
        if name in classes:
            weight[number, classes.index(name)] += signal
    head = 0.2 * weight, rng.normal(size=len(names))
    return prior_of(feature_layers, widths, head, names, classes)


def family(features, prior, name="last", penalties=(0.01, 0.1, 1.0)):
    shapes = probe_layers(FEATURE_LAYERS)
    kernels = mixed_kernels(features.items(), shapes)
    return PriorRidge(kernels[name], shapes[name], features.__getitem__, penalties, prior)


def minimised(features, labels, prior, layer_weights, penalty, learn):
    """Weights per feature layer and bias by least squares on rows, with the scaling of all rows.

    What is learnt is penalised in the scaled features of the profile, the factor is not.
    """
    k = int(labels.max()) + 1
    scalings = {layer: fit_scaling(features[layer]) for layer in layer_weights}
    scaled = [
        np.sqrt(layer_weights[t]) * apply_scaling(features[t], scalings[t]) for t in layer_weights
    ]
    joined = np.concatenate(scaled, axis=1).astype(np.float64)
    known = prior.scores(features.__getitem__)
    d = joined.shape[1]
    top = np.hstack([joined[learn], np.ones((len(learn), 1))])
    system = np.vstack([top, np.sqrt(penalty) * np.eye(d, d + 1)])
    right = np.vstack([np.eye(k)[labels[learn]], np.zeros((d, k))])
    offset = np.vstack([known[learn], np.zeros((d, k))])
    solved = np.linalg.lstsq(system, np.hstack([right, offset]), rcond=None)[0]
    left = np.hstack([right, offset]) - system @ solved
    (factor,), _ = nnls(left[:, k:].reshape(-1, 1), left[:, :k].reshape(-1))
    learnt = solved[:, :k] - factor * solved[:, k:]
    return factor * known + np.hstack([joined, np.ones((len(labels), 1))]) @ learnt


@pytest.mark.parametrize("name", ["last", "late"])
@pytest.mark.parametrize(
    "group_rows", [None, tuple(np.arange(3 * i, 3 * i + 3) for i in range(20))]
)
def test_trials_and_refit_equal_minimising_anew(name, group_rows):
    """Re-centring, groups, nested folds and weights over the union of layers, all at once."""
    features, labels = make()
    prior, problem = older(), problem_of(labels, group_rows=group_rows)
    head, layer_weights = family(features, prior, name, (0.1,)), probe_layers(FEATURE_LAYERS)[name]
    everything = np.arange(len(labels))
    for (keep, fold), (trial,) in zip(problem.training_sets(), head.trials(problem), strict=True):
        slow = minimised(features, labels, prior, layer_weights, 0.1, keep)
        np.testing.assert_allclose(trial.outside, slow[fold], atol=2e-4)
    fit = head.refit(problem, 0.1)
    for rows in problem.group_rows:
        learn = np.setdiff1d(everything, rows)
        slow = minimised(features, labels, prior, layer_weights, 0.1, learn)
        np.testing.assert_allclose(fit.scores[rows], slow[rows], atol=2e-4)
    said = sum(features[layer] @ weight for layer, weight in fit.weights.items()) + fit.bias
    slow = minimised(features, labels, prior, layer_weights, 0.1, everything)
    np.testing.assert_allclose(said, slow, atol=2e-4)
    assert set(fit.weights) == {*prior.weights, *layer_weights}


def test_inner_losses_come_from_rows_that_were_left_out():
    """The loss that a choice is made by is that of refits without the row, inside each fold."""
    features, labels = make(n=30)
    prior, problem = older(), problem_of(labels, n_folds=3)
    (trials, *_) = family(features, prior, penalties=(0.3,)).trials(problem)
    keep, _ = next(iter(problem.training_sets()))
    slow = np.empty((len(keep), 3))
    for place, row in enumerate(keep):
        learn = np.setdiff1d(keep, [row])
        slow[place] = minimised(
            features, labels, prior, probe_layers(FEATURE_LAYERS)["last"], 0.3, learn
        )[row]
    logits = trials[0].calibration.scale * slow
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(keep)), labels[keep]]
    np.testing.assert_allclose(trials[0].losses, losses, atol=2e-3)


def test_names_are_the_identity_never_positions():
    features, labels = make()
    order = (2, 0, 3, 1)
    head = np.random.default_rng(3).normal(size=(4, 15)), np.arange(4.0)
    permuted = head[0][list(order)], head[1][list(order)]
    classes = ("cat", "ant", "cow")
    plain = prior_of(FEATURE_LAYERS[1:], WIDTHS[1:], head, OLD, classes)
    other = prior_of(FEATURE_LAYERS[1:], WIDTHS[1:], permuted, [OLD[i] for i in order], classes)
    assert plain.has_class == other.has_class == (True, True, False)
    problem = problem_of(labels)
    one, two = (family(features, p).refit(problem, 0.1) for p in (plain, other))
    for layer in one.weights:
        np.testing.assert_array_equal(one.weights[layer], two.weights[layer])
    np.testing.assert_array_equal(one.scores, two.scores)


def test_an_unknown_class_has_no_weights_and_an_old_one_that_is_gone_leaves_none():
    prior = older(classes=("bee", "cow"))
    assert prior.has_class == (True, False)
    assert all(weight.shape[1] == 2 and not weight[:, 1].any() for weight in prior.weights.values())
    assert prior.bias[1] == 0


def cross_calibrated(scores, labels, fold, groups=None, temperature=3.0):
    """Rows that stand alone, beside a head with a calibration of its own."""
    before = Calibration(temperature, np.zeros(scores.shape[1]))
    groups = np.arange(len(labels)) if groups is None else groups
    return head_families.cross_calibrated(scores, labels, fold, groups, before)


def held(n=60, k=3, n_folds=5, seed=0):
    """Scores that know something of their labels, with folds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    scores = 2 * np.eye(k)[labels] + rng.normal(size=(n, k))
    return scores, labels, np.arange(n) % n_folds


def slow(scores, labels, group_rows):
    """Each row by a calibration of all rows of other groups."""
    found = np.full(scores.shape, np.nan)
    for row in range(len(labels)):
        others = group_rows != group_rows[row]
        fit = fit_temperature(scores[others], labels[others])
        found[row] = np.exp(log_probabilities(scores[[row]], fit))[0]
    return found


def test_each_row_is_calibrated_on_the_other_parts():
    scores, labels, fold = held()
    p, calibration = cross_calibrated(scores, labels, fold)
    blocks = np.arange(len(labels)) % 5
    np.testing.assert_allclose(p, slow(scores, labels, blocks), rtol=1e-9)
    np.testing.assert_allclose(p.sum(1), 1)
    whole = fit_temperature(scores, labels)
    assert calibration.scale == whole.scale
    np.testing.assert_array_equal(calibration.bias, whole.bias)


def test_rows_that_no_fold_holds_out_have_no_say():
    scores, labels, fold = held()
    fold[::3] = -1
    p, calibration = cross_calibrated(scores, labels, fold)
    assert np.isnan(p[::3]).all()
    keep = fold >= 0
    alone, same = cross_calibrated(scores[keep], labels[keep], fold[keep])
    np.testing.assert_array_equal(p[keep], alone)
    assert calibration.scale == same.scale


@pytest.mark.filterwarnings("error")
def test_a_single_row_is_told_nothing_and_warns_of_nothing():
    p, _ = cross_calibrated(np.array([[1.0, 0.0]]), np.array([0]), np.array([0]))
    assert p.sum() == pytest.approx(1)


def test_few_held_out_rows_keep_the_calibration_that_the_head_had():
    scores, labels, _ = held(8)
    p, calibration = cross_calibrated(scores, labels, np.zeros(8, int), temperature=0.5)
    assert calibration.scale == 0.5
    np.testing.assert_allclose(p, np.exp(log_probabilities(scores, calibration)))


def test_what_one_half_leans_to_and_the_other_away_from_is_not_carried_over():
    """A training on a half leans to what it saw more of; the other half saw less of that."""
    scores, labels, fold = held(120, n_folds=2)
    lean = np.where(fold[:, None] == 0, 1.5, -1.5) * np.array([1.0, -1.0, 0.0])
    p, calibration = cross_calibrated(scores + lean, labels, fold)
    loss = -np.log(p[np.arange(120), labels]).mean()
    plain = -np.log(np.exp(log_probabilities(scores + lean, Calibration(1.0, np.zeros(3)))))
    assert loss < plain[np.arange(120), labels].mean() + 0.05
    assert (calibration.bias == 0).all()


def problem_of_blocks(labels, sizes):
    """Groups of these sizes, then single rows."""
    ends = np.cumsum([0, *sizes])
    order = np.random.default_rng(3).permutation(len(labels))
    group_rows = [np.sort(order[a:b]) for a, b in pairwise(ends)]
    group_rows += [np.array([row]) for row in np.sort(order[ends[-1] :])]
    return problem_of(labels, group_rows=tuple(group_rows))


@dataclass
class Few:
    """A source that never gives more than a few rows at a time, and counts the most it gave."""

    features: dict
    most: list

    def __call__(self, layer):
        raise AssertionError("all rows were asked for")

    def some(self, rows):
        return Few({layer: values[rows] for layer, values in self.features.items()}, self.most)

    def chunks(self, feature_layers):
        n = len(next(iter(self.features.values())))
        for at in range(0, n, 7):
            self.most.append(min(7, n - at))
            yield {layer: self.features[layer][at : at + 7] for layer in feature_layers}


def same(one, other, atol):
    for a, b in zip([*one], [*other], strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.penalty == y.penalty
            np.testing.assert_allclose(x.outside, y.outside, atol=atol)
            np.testing.assert_allclose(x.losses, y.losses, atol=atol)


@pytest.mark.parametrize("sizes", [(), (2, 5, 3), (30, 2), (24,)])
def test_rows_seen_a_few_at_a_time_give_the_same_head_as_a_kernel(monkeypatch, sizes):
    monkeypatch.setattr(head_families, "CHUNK_ROWS", 16)
    monkeypatch.setattr(head_families, "LARGE", 24)
    features, labels = make(120)
    problem, shape = problem_of_blocks(labels, sizes), probe_layers(FEATURE_LAYERS)["late"]
    penalties, most = (0.01, 0.1, 1.0), []
    streamed = SketchedRidge(shape, Few(features, most), penalties, 0)
    kernel = mixed_kernels(features.items(), {"late": shape})["late"]
    dual = KernelRidge(kernel, shape, features.__getitem__, penalties)
    same(streamed.trials(problem), dual.trials(problem), atol=1e-3)
    one, other = streamed.refit(problem, 0.1), dual.refit(problem, 0.1)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    np.testing.assert_allclose(one.bias, other.bias, atol=1e-4)
    for layer, weights in other.weights.items():
        np.testing.assert_allclose(one.weights[layer], weights, atol=1e-4)
    assert max(most) == 7


NAMES = ("last", "late", "early", "stack")


def stacked(features, names=NAMES):
    shapes = probe_layers(FEATURE_LAYERS)
    kernels = mixed_kernels(features.items(), shapes)
    return families(names, shapes, kernels, features.__getitem__, (0.01, 0.1, 1.0), seed=0)


def posed(truth, target):
    group_rows = tuple(np.array([row]) for row in range(len(truth)))
    folds = tuple(np.sort(np.concatenate(group_rows[part::5])) for part in range(5))
    return SelectionProblem(truth, target.n_outputs(truth), group_rows, folds, target)


def numbers(n=80, seed=0, signal=1.0):
    """Half of what a number is made of lies in one layer, half in another."""
    rng = np.random.default_rng(seed)
    features = {
        layer: rng.normal(size=(n, d)).astype(np.float32)
        for layer, d in zip(FEATURE_LAYERS, (4, 6, 9), strict=True)
    }
    value = signal * (
        features[FEATURE_LAYERS[0]][:, 0] + features[FEATURE_LAYERS[2]][:, 0]
    ) + rng.normal(size=n)
    return features, (value - value.mean()) / value.std()


def test_rows_held_out_have_no_say_in_what_is_said_of_them():
    features, truth = numbers()
    problem = posed(truth, Regression())
    told = truth.copy()
    told[problem.folds[0]] += 5
    first, other = (
        stacked(features)["stack"].trials(posed(one, Regression()))[0][0].outside
        for one in (truth, told)
    )
    np.testing.assert_allclose(first, other, atol=1e-8)


def test_it_is_the_weighted_sum_of_its_members():
    features, truth = numbers()
    problem = posed(truth, Regression())
    heads = stacked(features)
    stack = heads["stack"]
    fit = stack.refit(problem, 0.0)
    joined = sum(features[layer] @ w for layer, w in fit.weights.items()) + fit.bias
    members = []
    for name in NAMES[:-1]:
        errors = [
            (((inside - truth[:, None]) ** 2).mean(), penalty)
            for penalty in (0.01, 0.1, 1.0)
            for keep, inside, _ in list(heads[name].left_out(problem, penalty))[-1:]
        ]
        one = heads[name].refit(problem, min(errors)[1])
        members.append(sum(features[layer] @ w for layer, w in one.weights.items()) + one.bias)
    weights, *_ = np.linalg.lstsq(np.hstack(members), joined[:, 0], rcond=None)
    assert (weights > -1e-6).all()
    np.testing.assert_allclose(np.hstack(members) @ weights, joined[:, 0], atol=1e-5)


@pytest.mark.parametrize("task", ["numbers", "labels"])
def test_noise_is_worth_nothing(task):
    found = []
    for seed in range(6):
        features, truth = numbers(seed=seed, signal=0.0)
        target = Regression()
        if task == "labels":
            target, rng = MULTILABEL, np.random.default_rng(seed)
            truth = (rng.random((len(truth), 3)) < 0.4).astype(float)
        fit = drain(fit_head(stacked(features), posed(truth, target)))
        found.append(target.credits(fit.probabilities, truth).mean() - target.blind_score(truth))
    assert np.mean(found) < 0.05
