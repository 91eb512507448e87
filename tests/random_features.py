"""Random features of three layers, and the choice of a head on them."""

from __future__ import annotations

import numpy as np

from warmstart.records.network import FeatureLayer
from warmstart.training.head_families import SelectionProblem

FEATURE_LAYERS = (
    FeatureLayer(block=1, pool="avg"),
    FeatureLayer(block=2, pool="avg"),
    FeatureLayer(block=3, pool="neck"),
)
WIDTHS = (4, 6, 9)


def make(n=60, classes=3, seed=0, signal=1.5):
    """Features of each layer, in which classes differ by `signal`, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    features = {
        layer: (rng.normal(size=(n, d)) + signal * np.eye(classes, d)[labels]).astype(np.float32)
        for layer, d in zip(FEATURE_LAYERS, WIDTHS, strict=True)
    }
    return features, labels


def problem_of(labels, n_folds=5, group_rows=None):
    """Folds of whole groups; every row is a group unless these are given."""
    group_rows = group_rows or tuple(np.array([i]) for i in range(len(labels)))
    folds = tuple(np.sort(np.concatenate(group_rows[k::n_folds])) for k in range(n_folds))
    return SelectionProblem(labels, int(labels.max()) + 1, group_rows, folds)
