"""Does one column of a table give the label away?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from warmstart.records.data import Finding
from warmstart.solve.ridge import Array, Rows

ALONE = 0.97  # share of rows whose label one column tells, from which it is named
BEYOND = 0.15  # more than by guessing the largest class
LEAST = 20  # rows below which that says little
FOLDS = 4
MANY = 100  # columns from which on those that cannot tell are passed over without a tree
SLACK = 0.07  # less than `ALONE` that bins may tell of a column of which a tree tells that much


def telling(
    columns: Mapping[str, Array], labels: Rows, parts: Sequence[Rows], seed: int
) -> Finding | None:
    """A finding over columns each of which alone tells the label nearly always, else None.

    Judged on rows held out, by a small tree of as many leaves as the classes take twice.
    Shapes: columns (n, d) each, labels (n,); `parts` are the rows of each fold.
    """
    n = len(labels)
    guess = float(np.bincount(labels).max() / max(n, 1))
    if n < LEAST or len(parts) < 2:
        return None
    if len(columns) > MANY:
        columns = {name: v for name, v in columns.items() if _may_tell(v, labels)}
    found = {name: _accuracy(values, labels, parts, seed) for name, values in columns.items()}
    told = {name: a for name, a in found.items() if a >= ALONE and a - guess >= BEYOND}
    return _finding(told, "tells the label of {:.0f} % of the rows", "label")


def telling_of_sets(
    columns: Mapping[str, Array],
    truth: Array,
    names: Sequence[str],
    parts: Sequence[Rows],
    seed: int,
) -> Finding | None:
    """The same of several labels, each by itself; the first that a column tells is named.

    Shapes: truth (n, K) of 0 and 1, K = len(names).
    """
    for k, name in enumerate(names):
        found = telling(columns, truth[:, k].astype(np.int64), parts, seed)
        if found is not None:
            whose = f'tells whether "{name}" holds of'
            return replace(found, sentence=found.sentence.replace("tells the label of", whose))
    return None


def telling_of_numbers(
    columns: Mapping[str, Array], truth: Array, parts: Sequence[Rows], seed: int
) -> Finding | None:
    """The same of a number: columns each of which alone explains nearly all of its variance.

    Shapes: truth (n,).
    """
    if len(truth) < LEAST or len(parts) < 2:
        return None
    if len(columns) > MANY:
        columns = {name: v for name, v in columns.items() if _may_explain(v, truth)}
    found = {name: _explained(values, truth, parts, seed) for name, values in columns.items()}
    told = {name: share for name, share in found.items() if share >= ALONE}
    return _finding(told, "explains {:.0f} % of the numbers' variance", "number")


def _finding(told: Mapping[str, float], does: str, what: str) -> Finding | None:
    """The column that tells most, in words; None where none does. `does` has a place for it."""
    if not told:
        return None
    best = max(told, key=lambda name: told[name])
    also = "" if len(told) == 1 else f", and so do {len(told) - 1:,} more"
    return Finding(
        kind="shortcut",
        sentence=(
            f'The column "{best}" alone {does.format(100 * told[best])}{also}. If it is known '
            f"only once the {what} is, leave it out: --set column.{best}=left-out."
        ),
        items=tuple(told),
    )


def _bins(values: Array, n_bins: int) -> Rows:
    """The number of each row's bin: equal values share one. Shapes: (n, d) to (n,)."""
    if values.shape[1] > 1:
        places: Rows = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
        return places
    column = values[:, 0]
    edges = np.sort(column)[np.linspace(0, len(column) - 1, n_bins + 1).astype(int)[1:-1]]
    return np.searchsorted(np.unique(edges), column, side="right")


def _may_tell(values: Array, labels: Rows) -> bool:
    """Whether a tree could be right often enough: the largest class of each of many bins is."""
    n_classes = int(labels.max()) + 1
    bins = _bins(values, max(min(32 * n_classes, len(labels) // 4), 2))
    counts = np.bincount(bins * n_classes + labels, minlength=n_classes * (int(bins.max()) + 1))
    right = int(counts.reshape(-1, n_classes).max(axis=1).sum())
    return right >= (ALONE - SLACK) * len(labels)


def _may_explain(values: Array, truth: Array) -> bool:
    """Whether a tree could explain enough: the means of many bins do."""
    bins = _bins(values, max(min(256, len(truth) // 4), 2))
    counts = np.maximum(np.bincount(bins), 1)
    means = np.bincount(bins, truth) / counts
    rest = float(((truth - means[bins]) ** 2).mean())
    return rest <= (1 - ALONE + 3 * SLACK) * max(float(truth.var()), 1e-12)


def _explained(values: Array, truth: Array, parts: Sequence[Rows], seed: int) -> float:
    from sklearn.tree import DecisionTreeRegressor

    said = np.zeros(len(truth))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(truth)), part)
        tree = DecisionTreeRegressor(min_samples_leaf=2, random_state=seed)
        said[part] = tree.fit(values[rest], truth[rest]).predict(values[part])
    return 1 - float(((said - truth) ** 2).mean()) / max(float(truth.var()), 1e-12)


def _accuracy(values: Array, labels: Rows, parts: Sequence[Rows], seed: int) -> float:
    from sklearn.tree import DecisionTreeClassifier

    hits = np.zeros(len(labels))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(labels)), part)
        tree = DecisionTreeClassifier(
            max_leaf_nodes=2 * (int(labels.max()) + 1), min_samples_leaf=2, random_state=seed
        )
        hits[part] = tree.fit(values[rest], labels[rest]).predict(values[part]) == labels[part]
    return float(hits.mean())
