"""Choosing a head: the penalty by the one-standard-error rule, then the simplest that ties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import Groups, number_groups, standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth

LEAST = 10  # held-out rows below which the fitted head's calibration is better
FOLDS = 5
TIE = 0.25  # standard errors of the paired log-loss within which the simpler head wins


def cross_folds(groups: Labels) -> Labels:
    """Assign each held-out row to one of five folds; groups stay whole, neighbours are apart.

    They cut across the folds of the trainings: a temperature fitted on one network is wrong for a
    more confident one.
    """
    numbers: Labels = np.unique(groups, return_inverse=True)[1]
    return numbers % FOLDS


def cross_calibrated(
    scores: Array,
    labels: Truth,
    fold: Labels,
    groups: Labels,
    before: Calibration,
    target: Target = CLASSIFICATION,
) -> tuple[Array, Calibration]:
    """Probabilities of held-out rows, each calibrated on other folds, and the calibration of all.

    A temperature alone: a class bias differs between the networks of two folds, and says nothing
    about the one that ships. `before` calibrates where few rows were held out.
    Shapes: scores (n, K), labels and groups (n,), fold (n,) with -1 for rows that no fold holds
    out (their probabilities are NaN); returns (n, K).
    """
    held = np.flatnonzero(fold >= 0)
    inner = cross_folds(groups[held])
    probabilities = np.full(scores.shape, np.nan)
    if len(held) < LEAST or len(np.unique(inner)) < 2:
        probabilities[held] = target.answers(scores[held], before)
        return probabilities, before
    for number in np.unique(inner):
        inside, others = held[inner == number], held[inner != number]
        calibration = target.recalibrate(scores[others], labels[others])
        probabilities[inside] = target.answers(scores[inside], calibration)
    return probabilities, target.recalibrate(scores[held], labels[held])


@dataclass(frozen=True, slots=True)
class SelectionProblem:
    """Labelled rows, their groups, and the rows that each outer fold holds out.

    Shapes: labels (n,) in 0..n_classes-1, or what `target` takes for the truth; `group_rows`
    partition the n rows; each element of `folds` is a union of groups.
    """

    labels: Truth
    n_classes: int
    group_rows: tuple[Rows, ...]
    folds: tuple[Rows, ...]
    target: Target = CLASSIFICATION

    @property
    def targets(self) -> Array:
        """Regression targets of a ridge, uncentred: one-hot labels. Shapes: (n, K)."""
        return self.target.encode(self.labels, self.n_classes)

    def targets_of(self, rows: Rows) -> Array:
        return self.target.encode(self.labels[rows], self.n_classes)

    def training_sets(self) -> Iterator[tuple[Rows, Rows]]:
        """(training rows, held-out rows) for every fold, then for all rows together."""
        everything = np.arange(len(self.labels))
        for fold in self.folds:
            yield np.setdiff1d(everything, fold), fold
        yield everything, everything[:0]

    def groups(self) -> Labels:
        """The group number of each row. Shapes: (n,)."""
        return number_groups(self.group_rows)


@dataclass(frozen=True, slots=True)
class Trial:
    """A head family with one penalty, evaluated in one training set by leave-one-group-out.

    Shapes: losses (m,), calibrated log-loss of each training row, predicted without its group;
    outside (n - m, K), scores of the held-out rows, for the estimate alone.
    """

    penalty: float
    losses: Array
    calibration: Calibration
    outside: Array


Trials = list[list[Trial]]  # [training set][penalty, weakest first]


def judge(
    problem: SelectionProblem, keep: Rows, penalty: float, inside: Array, outside: Array
) -> Trial:
    """Calibrate the left-out scores (m, K) of the training rows `keep`; compute their losses."""
    labels = problem.labels[keep]
    calibration = problem.target.calibrate(inside, labels)
    losses = problem.target.losses(inside, labels, calibration)
    return Trial(penalty, losses, calibration, outside)


def groups_within(group_rows: Sequence[Rows], keep: Rows, n: int) -> list[Rows]:
    """The groups inside `keep`, as places in it."""
    place = np.full(n, -1)
    place[keep] = np.arange(len(keep))
    return [place[rows] for rows in group_rows if place[rows[0]] >= 0]


def choose_penalty(trials: Sequence[Trial], groups: Groups) -> Trial:
    """The strongest penalty whose log-loss is within one paired standard error of the best.

    Breiman et al. 1984, §3.4.3. Shapes: trials by rising penalty, groups (m,) of the training rows.
    """
    best = min(trials, key=lambda trial: float(trial.losses.mean()))
    chosen = best
    for trial in trials:
        gap = trial.losses - best.losses
        if trial.penalty > best.penalty and gap.mean() <= standard_error(gap, groups):
            chosen = trial
    return chosen


def choose_head(trials: Mapping[str, Sequence[Trial]], groups: Groups) -> tuple[str, Trial]:
    """The head with the lowest log-loss, or the simplest that ties with it.

    Shapes: trials by head name, simplest first, all over the same training rows; groups (m,).
    """
    chosen = {name: choose_penalty(penalties, groups) for name, penalties in trials.items()}
    best = min(chosen.values(), key=lambda trial: float(trial.losses.mean()))
    for name, trial in chosen.items():
        gap = trial.losses - best.losses
        if gap.mean() <= TIE * np.nan_to_num(standard_error(gap, groups), posinf=0.0):
            return name, trial
    raise AssertionError("the best head ties with itself")
