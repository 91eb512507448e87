"""Stacked ridges: nested, linear, and not fooled by noise."""

import numpy as np
import pytest

from warmstart.events import drain
from warmstart.planning.rules import probe_layers
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import mixed_kernels
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.regress import Regression
from warmstart.training.linear_probe import families, fit_head
from warmstart.training.selection import SelectionProblem

FEATURE_LAYERS = (
    FeatureLayer(block=1, pool="avg"),
    FeatureLayer(block=2, pool="avg"),
    FeatureLayer(block=3, pool="neck"),
)
NAMES = ("last", "late", "early", "stack")


def made(features, names=NAMES):
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


def said(fit, features):
    return (
        np.concatenate([features[layer] for layer in fit.feature_layers], axis=1) @ fit.weight.T
        + fit.bias
    )


def test_it_is_about_as_good_as_the_best_of_its_members_and_linear():
    features, truth = numbers(signal=2.0)
    problem, heads = posed(truth, Regression()), made(features)
    losses = {
        name: min(trial.losses.mean() for trial in family.trials(problem)[-1])
        for name, family in heads.items()
    }
    assert losses["stack"] < min(losses.values()) + 0.02
    fit = drain(fit_head({"stack": heads["stack"]}, problem))
    assert Regression().credits(fit.probabilities, truth).mean() > 0.7
    assert Regression().credits(said(fit, features), truth).mean() > 0.7


def test_rows_held_out_have_no_say_in_what_is_said_of_them():
    features, truth = numbers()
    problem = posed(truth, Regression())
    told = truth.copy()
    told[problem.folds[0]] += 5
    first, other = (
        made(features)["stack"].trials(posed(one, Regression()))[0][0].outside
        for one in (truth, told)
    )
    np.testing.assert_allclose(first, other, atol=1e-8)


def test_it_is_the_weighted_sum_of_its_members():
    features, truth = numbers()
    problem = posed(truth, Regression())
    heads = made(features)
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
        fit = drain(fit_head(made(features), posed(truth, target)))
        found.append(target.credits(fit.probabilities, truth).mean() - target.blind_score(truth))
    assert np.mean(found) < 0.05
