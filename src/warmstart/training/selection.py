"""Choosing a head: the penalty by the one-standard-error rule, then the family.

Ties go to the simpler one: a difference within chance does not justify complexity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import Groups, number_groups, standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth

# ---- Cross-calibration: no row is calibrated by itself.


LEAST = 10  # held-out rows below which the fitted head's calibration is better
FOLDS = 5


def cross_folds(groups: Labels) -> Labels:
    """Assign each held-out row to one of five folds; groups stay whole, neighbours are apart.

    Not the folds of the trainings: of two networks trained on a half each, one is more confident,
    and a temperature fitted on one is wrong for the other. A fold has rows of both.

    >>> cross_folds(np.array([7, 7, 9, 12, 30, 31, 40])).tolist()
    [0, 0, 1, 2, 3, 4, 0]
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

    A temperature alone: of two trainings on a half each, one leans towards a class and the other
    away from it, so that a class bias says nothing about the network that ships. Where few rows
    were held out, `before`, the calibration of the head with which training began, is kept.
    Shapes: scores (n, K), labels and groups (n,), fold (n,) with -1 for rows that no fold holds
    out (their probabilities are NaN); returns (n, K).

    >>> scores, labels = np.eye(2)[np.arange(24) % 2], np.arange(24) % 2
    >>> fold = np.where(np.arange(24) < 22, np.arange(24) % 3, -1)
    >>> p, _ = cross_calibrated(scores, labels, fold, np.arange(24), Calibration(1.0, np.zeros(2)))
    >>> bool(p[0, 0] > 0.5), bool(np.isnan(p[23]).all())
    (True, True)
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


# ---- Trials: one head setting evaluated inside one training set, by leave-one-group-out.
#
# A setting is a head family on one kernel with one penalty. In every training set (all rows, or
# all but one outer fold) it is evaluated by leave-one-group-out predictions within that set
# alone; the scores of the fold outside are kept for the estimate. So every choice made from
# trials is nested by construction.


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
        """The targets of some rows. Shapes: (len(rows), K)."""
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
    """One setting in one training set.

    Shapes: losses (m,), calibrated log-loss of each training row, predicted without its group;
    outside (n - m, K), scores of the held-out rows.
    """

    penalty: float
    losses: Array
    calibration: Calibration
    outside: Array


Trials = list[list[Trial]]  # [training set][penalty, weakest first]


def judge(
    problem: SelectionProblem, keep: Rows, penalty: float, inside: Array, outside: Array
) -> Trial:
    """Calibrate the left-out scores of the training rows and compute their losses.

    Shapes: keep (m,), inside (m, K), outside (n - m, K).
    """
    labels = problem.labels[keep]
    calibration = problem.target.calibrate(inside, labels)
    losses = problem.target.losses(inside, labels, calibration)
    return Trial(penalty, losses, calibration, outside)


def groups_within(group_rows: Sequence[Rows], keep: Rows, n: int) -> list[Rows]:
    """The groups inside `keep`, as places in it.

    >>> [g.tolist() for g in groups_within([np.array([0, 2]), np.array([1])], np.array([0, 2]), 3)]
    [[0, 1]]
    """
    place = np.full(n, -1)
    place[keep] = np.arange(len(keep))
    return [place[rows] for rows in group_rows if place[rows[0]] >= 0]


TIE = 0.25  # standard errors of the paired log-loss within which the simpler head wins


def choose_penalty(trials: Sequence[Trial], groups: Groups) -> Trial:
    """The strongest penalty whose log-loss is within one paired standard error of the best.

    Shapes: trials in order of rising penalty, groups (m,) of the training rows.
    Source: Breiman et al. 1984, §3.4.3; paired, as all are evaluated on the same rows.
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
    chosen = {name: choose_penalty(each, groups) for name, each in trials.items()}
    best = min(chosen.values(), key=lambda trial: float(trial.losses.mean()))
    for name, trial in chosen.items():
        gap = trial.losses - best.losses
        if gap.mean() <= TIE * np.nan_to_num(standard_error(gap, groups), posinf=0.0):
            return name, trial
    raise AssertionError("the best head ties with itself")
