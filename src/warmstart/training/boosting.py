"""Gradient boosting beside a network for tables: same rows, same folds, compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from warmstart.data.splits import folds
from warmstart.evaluation.metrics import accuracy_estimate
from warmstart.events import Event, Steps, note
from warmstart.features.extraction import load_unchanged
from warmstart.modalities.preprocessing import encode
from warmstart.records.summary import Baseline
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups
from warmstart.stats.paired import hits_difference
from warmstart.tasks.words import points
from warmstart.training.dataset import TrainingDataset, members
from warmstart.training.fine_tune import FineTuned

ROUNDS = (10, 30, 100)  # candidate numbers of trees per class
RATE, DEPTH = 0.1, 3
MANY = 500  # rows from which histograms are faster than sorted values
VERY_MANY = 20_000  # rows from which several threads pay off
LEAST = 1e-6  # probability, so that no log-loss is infinite


@dataclass(frozen=True, slots=True)
class BoostingPredictions:
    """Out-of-fold predictions. Shapes: probabilities (n, K), fold (n,)."""

    probabilities: Array
    fold: Rows
    name: str


def boost(
    rows: Array,
    labels: Rows,
    n_classes: int,
    outer: Sequence[Rows],
    inner: Callable[[Rows], Sequence[Rows]],
    seed: int,
) -> Steps[BoostingPredictions]:
    """Fit without each outer fold, with the rounds that inner folds choose; NaN if never held out.

    Friedman 2001, "Greedy Function Approximation: A Gradient Boosting Machine".
    Shapes: rows (n, F), labels (n,). `inner` returns folds of the rows it gets, as places in them.
    """
    probabilities = np.full((len(labels), n_classes), np.nan)
    fold = np.full(len(labels), -1, dtype=np.int64)
    for number, held in enumerate(outer):
        keep = np.setdiff1d(np.arange(len(labels)), held)
        x, y = rows[keep], labels[keep]
        trees = _Trees(x, y, n_classes, seed)
        trees.grow(_choose_rounds(x, y, n_classes, inner(keep), seed))
        probabilities[held] = trees.predict(rows[held])
        fold[held] = number
        yield Event(
            stage="fine_tune",
            kind="step",
            step=number + 1,
            of=len(outer),
            values={"title": "Boosting"},
        )
    return BoostingPredictions(probabilities, fold, "gradient boosting")


def _choose_rounds(x: Array, y: Rows, n_classes: int, folds: Sequence[Rows], seed: int) -> int:
    """The number of rounds after which held-out log-loss rises."""
    rest = [np.setdiff1d(np.arange(len(y)), fold) for fold in folds]
    models = [_Trees(x[rows], y[rows], n_classes, seed) for rows in rest]
    best, chosen = np.inf, ROUNDS[0]
    for rounds in ROUNDS:
        loss = 0.0
        for fold, trees in zip(folds, models, strict=True):
            trees.grow(rounds)
            p = trees.predict(x[fold])[np.arange(len(fold)), y[fold]]
            loss -= float(np.log(np.maximum(p, LEAST)).sum())
        if loss >= best:
            break
        best, chosen = loss, rounds
    return chosen


class _Trees:
    """Boosted trees that can grow. Shapes: x (n, F), y (n,) in 0..K-1."""

    def __init__(self, x: Array, y: Rows, n_classes: int, seed: int) -> None:
        self._x, self._y, self._n_classes = x, y, n_classes
        self._present = np.unique(y)
        self._model, self._rounds = _model(len(y), seed)

    def grow(self, rounds: int) -> None:
        from sklearn import config_context

        if len(self._present) == 1:
            return
        self._model.set_params(**{self._rounds: rounds})
        # Settings would be checked once per tree; threads would wait for each other on few rows.
        threads = 1 if len(self._y) < VERY_MANY else None
        with config_context(skip_parameter_validation=True), threadpool_limits(threads):
            self._model.fit(self._x, self._y)

    def predict(self, new: Array) -> Array:
        """Probabilities of rows (m, F): (m, K)."""
        probabilities = np.zeros((len(new), self._n_classes))
        is_one = len(self._present) == 1
        probabilities[:, self._present] = 1.0 if is_one else self._model.predict_proba(new)
        return probabilities


def _model(n: int, seed: int) -> tuple[Any, str]:
    """Boosting for n rows, without a tree, and the name of its number of rounds."""
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

    if n < MANY:
        return GradientBoostingClassifier(
            learning_rate=RATE, max_depth=DEPTH, subsample=0.8, random_state=seed, warm_start=True
        ), "n_estimators"
    return HistGradientBoostingClassifier(
        learning_rate=RATE,
        max_leaf_nodes=2**DEPTH,
        early_stopping=False,
        random_state=seed,
        warm_start=True,
    ), "max_iter"


INNER = 2  # inner folds, each of which is held out once


def compare_boosting(
    training_data: TrainingDataset, fine_tuned: FineTuned
) -> Steps[tuple[Baseline, ...]]:
    """Compare boosting with what ships, for tables, on the folds by which that was evaluated."""
    labelled, record = training_data.labelled, training_data.collection.record
    if record.kind != "table" or record.task != "classify":
        return ()
    head, labels, groups = fine_tuned.head, labelled.labels, labelled.groups()
    outer = [np.flatnonzero(head.fold == number) for number in np.unique(head.fold[head.fold >= 0])]

    def inner(keep: Rows) -> list[Rows]:
        rng = np.random.default_rng([training_data.seed, 16])
        fold = folds(labels[keep], number_groups(members(groups[keep])), INNER, rng)
        return [np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1)]

    yield Event(stage="fine_tune", kind="begin", of=len(outer), values={"title": "Boosting"})
    boosted = yield from boost(
        encoded(training_data), labels, labelled.n_classes, outer, inner, training_data.seed
    )
    held = np.flatnonzero(boosted.fold >= 0)
    method: Literal["holdout", "nested-cv"] = "holdout" if labelled.holdout else "nested-cv"
    estimate = accuracy_estimate(boosted.probabilities[held], labels[held], groups[held], method)
    ours = _hits(head.probabilities, head.fold, labels)
    theirs = _hits(boosted.probabilities, boosted.fold, labels)
    both = np.flatnonzero(np.isfinite(ours) & np.isfinite(theirs))
    gap = hits_difference(theirs[both], ours[both], groups[both])
    baseline = Baseline(
        name=boosted.name,
        estimate=estimate,
        difference=gap.value,
        low=gap.low,
        high=gap.high,
        n=len(both),
        is_better=gap.low > 0,
        sentence=_sentence(boosted.name, estimate.value, gap.value, gap.low, gap.high),
    )
    yield note("fine_tune", "Baseline", baseline.sentence)
    return (baseline,)


def encoded(training_data: TrainingDataset) -> Array:
    """The training rows as the network gets them. Shapes: (n, F)."""
    examples = training_data.labelled.learn
    return np.stack(
        [
            encode(load_unchanged(training_data.collection, e), e.id, training_data.prep)
            for e in examples
        ]
    )


def _hits(probabilities: Array, fold: Rows, labels: Rows) -> Array:
    """Whether each row is predicted correctly, (n,); NaN if it was never held out."""
    held = fold >= 0
    hits = np.full(len(labels), np.nan)
    hits[held] = probabilities[held].argmax(axis=1) == labels[held]
    return hits


def _sentence(name: str, accuracy: float, gap: float, low: float, high: float) -> str:
    right = f"held-out accuracy {100 * accuracy:.1f} %"
    interval = f"95 % CI {points(low)} to {points(high)}"
    more = f"{points(abs(gap))} points {'more' if gap >= 0 else 'less'} than this model"
    if low > 0:
        return f"{name.capitalize()} is better here: {right}, {more} ({interval}); use it."
    if high < 0:
        return f"{name.capitalize()} is worse here: {right}, {more} ({interval})."
    return (
        f"{name.capitalize()} is about as good here: {right}, {more} ({interval}), which may be "
        "chance."
    )
