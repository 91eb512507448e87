"""Pools of labelled images with stored features, for many small draws."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench import sets
from warmstart.data.read import read
from warmstart.events import drain
from warmstart.features.extraction import extract_features
from warmstart.network.load import load
from warmstart.planning import rules
from warmstart.planning.rules import probe_layers
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import mixed_kernels
from warmstart.training.linear_probe import HeadFit, families, fit_head
from warmstart.training.selection import SelectionProblem

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """All images of a set, train and test. Shapes: feature_layers (N, d_t), labels (N,)."""

    feature_layers: dict[FeatureLayer, NDArray[np.float32]]
    labels: Labels


def extracted(args: Namespace, name: str, split: str | None = None, base: str = "lite0") -> Pool:
    """The features of a set (of one of its parts), from the store where they are there."""
    collection = drain(read(sets.root(args) / name))
    seen = drain(extract_features(collection, load(base)))
    examples = [e for e in collection.record.examples if split in (None, e.split)]
    number = {label: i for i, label in enumerate(collection.record.classes)}
    labels = np.array([number[e.label] for e in examples])
    return Pool(
        {layer: seen.features.reader(examples)(layer) for layer in seen.feature_layers}, labels
    )


def draw(labels: Labels, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """n rows at random, redrawn until every class has two."""
    k = int(labels.max()) + 1
    while True:
        rows = rng.choice(len(labels), size=n, replace=False)
        if np.bincount(labels[rows], minlength=k).min() >= 2:
            return np.sort(rows)


def fit_rows(
    pool: Pool,
    rows: NDArray[np.intp],
    labels: Labels,
    rng: np.random.Generator,
    group_rows: Sequence[NDArray[np.intp]] | None = None,
) -> HeadFit:
    """What `fit --budget fast` does with these rows, from features on."""
    from warmstart.data.splits import folds

    n, k = len(rows), int(labels.max()) + 1
    groups = tuple(group_rows or (np.array([i]) for i in range(n)))
    group_of = np.empty(n, dtype=np.int64)
    for number, members in enumerate(groups):
        group_of[members] = number
    fold = folds(labels, group_of, rules.outer_folds(len(groups), len(labels)), rng)
    outer = tuple(np.flatnonzero(fold == f) for f in range(int(fold.max()) + 1))
    return _fit(pool, rows, SelectionProblem(labels, k, groups, outer))


def fit_shipped(pool: Pool, rows: NDArray[np.intp], labels: Labels) -> HeadFit:
    """The same head to the bit, without its estimate: several times quicker."""
    groups = tuple(np.array([i]) for i in range(len(rows)))
    return _fit(pool, rows, SelectionProblem(labels, int(labels.max()) + 1, groups, ()))


def _fit(pool: Pool, rows: NDArray[np.intp], problem: SelectionProblem) -> HeadFit:
    n, k, smallest = len(rows), problem.n_classes, int(np.bincount(problem.labels).min())
    shapes = probe_layers(list(pool.feature_layers))
    feature_layers = {layer: x[rows] for layer, x in pool.feature_layers.items()}
    names = rules.candidates(n, k, smallest, tuple(shapes), "fast")
    kernels = mixed_kernels(feature_layers.items(), shapes)
    heads = families(names, shapes, kernels, feature_layers.__getitem__, rules.penalties(n), 0)
    return drain(fit_head(heads, problem))


def predict(fit: HeadFit, pool: Pool, rows: NDArray[np.intp]) -> Labels:
    """Predicted classes of other rows."""
    joined = np.concatenate(
        [pool.feature_layers[layer][rows] for layer in fit.feature_layers], axis=1
    )
    scores = fit.calibration.scale * (joined @ fit.weight.T + fit.bias)
    return np.asarray((scores + fit.calibration.bias).argmax(axis=1))
