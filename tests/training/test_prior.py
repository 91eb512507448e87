"""A head that goes on from an older one, against minimising anew with everything at hand."""

import numpy as np
import pytest
from scipy.optimize import nnls

from warmstart.events import drain
from warmstart.planning.rules import probe_layers
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import apply_scaling, fit_scaling, mixed_kernels
from warmstart.training.linear_probe import families, fit_head
from warmstart.training.prior import SUFFIX, PriorRidge, prior_of
from warmstart.training.selection import SelectionProblem

FEATURE_LAYERS = (
    FeatureLayer(block=1, pool="avg"),
    FeatureLayer(block=2, pool="avg"),
    FeatureLayer(block=3, pool="neck"),
)
WIDTHS = (4, 6, 9)
OLD = ("ant", "bee", "cat", "dog")


def make(n=60, classes=3, seed=0, signal=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    features = {
        layer: (rng.normal(size=(n, d)) + signal * np.eye(classes, d)[labels]).astype(np.float32)
        for layer, d in zip(FEATURE_LAYERS, WIDTHS, strict=True)
    }
    return features, labels


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


def problem_of(labels, n_folds=5, group_rows=None):
    group_rows = group_rows or tuple(np.array([i]) for i in range(len(labels)))
    folds = tuple(np.sort(np.concatenate(group_rows[k::n_folds])) for k in range(n_folds))
    return SelectionProblem(labels, int(labels.max()) + 1, group_rows, folds)


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


def test_without_a_shared_name_there_is_no_prior():
    assert older(classes=("cow", "elk", "fox")) is None
    assert older(classes=("Cat", "ANT", "cow")) is None


def test_an_unknown_class_has_no_weights_and_an_old_one_that_is_gone_leaves_none():
    prior = older(classes=("bee", "cow"))
    assert prior.has_class == (True, False)
    assert all(weight.shape[1] == 2 and not weight[:, 1].any() for weight in prior.weights.values())
    assert prior.bias[1] == 0


def test_a_good_older_head_makes_a_few_examples_better():
    wide, all_labels = make(n=460, seed=1, signal=0.6)
    labels = all_labels[:400]
    old = {layer: x[:400] for layer, x in wide.items()}
    shapes = probe_layers(FEATURE_LAYERS)
    kernels = mixed_kernels(old.items(), shapes)
    heads = families(["last"], shapes, kernels, old.__getitem__, (0.1,), 0)
    fit = drain(fit_head(heads, problem_of(labels)))
    prior = prior_of(
        fit.feature_layers, [9], (fit.weight, fit.bias), ["a", "b", "c"], ["a", "b", "c"]
    )
    few = {layer: x[400:430] for layer, x in wide.items()}
    right = {}
    for kind, begun in (("plain", None), ("begun", prior)):
        name = "last" if begun is None else "last+prior"
        kernels = mixed_kernels(few.items(), shapes)
        heads = families([name], shapes, kernels, few.__getitem__, (0.1, 1.0, 10.0), 0, begun)
        new = drain(fit_head(heads, problem_of(all_labels[400:430])))
        joined = np.concatenate([wide[layer][430:] for layer in new.feature_layers], axis=1)
        said = joined @ new.weight.T + new.bias
        right[kind] = (said.argmax(axis=1) == all_labels[430:]).mean()
    assert right["begun"] > right["plain"]


def test_random_labels_are_estimated_at_chance():
    """Factor, penalty, temperature and choice among heads together must not flatter."""
    right = []
    for seed in range(12):
        features, labels = make(n=60, seed=seed, signal=0.0)
        shapes = probe_layers(FEATURE_LAYERS)
        names = [name + SUFFIX for name in shapes]
        kernels = mixed_kernels(features.items(), shapes)
        prior = older(seed=seed + 50)
        heads = families(names, shapes, kernels, features.__getitem__, (0.01, 0.1, 1.0), 0, prior)
        fit = drain(fit_head(heads, problem_of(labels)))
        right.append((fit.probabilities.argmax(axis=1) == labels).mean())
    assert np.mean(right) < 1 / 3 + 3 * np.sqrt(2 / 9 / 60 / 12)


def test_the_families_are_those_that_were_named():
    features, _ = make()
    shapes = probe_layers(FEATURE_LAYERS)
    kernels = mixed_kernels(features.items(), shapes)
    heads = families(
        ["last+prior", "late"], shapes, kernels, features.__getitem__, (0.1,), 0, older()
    )
    assert [type(head).__name__ for head in heads.values()] == ["PriorRidge", "KernelRidge"]


def test_a_class_inside_one_block_does_not_break_the_fit():
    features, _ = make(n=40)
    labels = np.where(np.arange(40) < 3, 2, np.arange(40) % 2)
    group_rows = (np.arange(3), *(np.array([i]) for i in range(3, 40)))
    head = family(features, older())
    fit = drain(fit_head({"last+prior": head}, problem_of(labels, group_rows=group_rows)))
    assert np.isfinite(fit.probabilities).all()
