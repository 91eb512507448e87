"""Stacked ridges on several feature layers: a sum, weighted by leave-one-group-out predictions.

Breiman 1996, "Stacked Regressions": weights of least squared error on left-out predictions, none
below zero. A sum of linear outputs is a linear output. On pairs and turned pictures it was better
than the best layer alone (`bench run tasks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from warmstart.records.network import FeatureLayer
from warmstart.solve.ridge import Array, Rows
from warmstart.training.head_families import KernelRidge, Refit
from warmstart.training.selection import SelectionProblem, Trials, cross_folds, judge

STACK = "stack"  # its name among candidates


@dataclass(frozen=True, slots=True)
class _MemberScores:
    """Scores of a member at the penalty of least squared error, in one training set.

    Shapes: keep (m,), inside (m, K) left-out scores of the training rows, outside (n - m, K).
    """

    error: float
    penalty: float
    keep: Rows
    inside: Array
    outside: Array


@dataclass(frozen=True, slots=True)
class Stacked:
    """A family that combines others, by name."""

    members: Mapping[str, KernelRidge]

    def trials(self, problem: SelectionProblem) -> Trials:
        """Evaluate the sum in every training set; the weights for a fold come from others."""
        trials: Trials = []
        scores_by_member = (_member_scores(member, problem) for member in self.members.values())
        for members in zip(*scores_by_member, strict=True):
            keep = members[0].keep
            weights, inside = _combine(members, problem)
            outside = np.tensordot(weights, np.stack([one.outside for one in members]), axes=1)
            trials.append([judge(problem, keep, 0.0, inside, outside)])
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Fit on all rows; each member has its own penalty."""
        members = [_member_scores(member, problem)[-1] for member in self.members.values()]
        weights, scores = _combine(members, problem)
        columns: dict[FeatureLayer, Array] = {}
        bias = np.zeros(problem.n_classes)
        for weight, one, member in zip(weights, members, self.members.values(), strict=True):
            if not weight:
                continue
            fit = member.refit(problem, one.penalty)
            bias += weight * fit.bias
            for layer, inner in fit.weights.items():
                columns[layer] = columns.get(layer, 0.0) + weight * inner
        return Refit(scores, columns, bias)


def _member_scores(member: KernelRidge, problem: SelectionProblem) -> list[_MemberScores]:
    """In every training set, the last of which holds all rows."""
    best: list[_MemberScores] = []
    for penalty in member.penalties:
        for number, (keep, inside, outside) in enumerate(member.left_out(problem, penalty)):
            error = float(((inside - problem.targets_of(keep)) ** 2).mean())
            scores = _MemberScores(error, penalty, keep, inside, outside)
            if number == len(best):
                best.append(scores)
            elif error < best[number].error:
                best[number] = scores
    return best


def _combine(members: Sequence[_MemberScores], problem: SelectionProblem) -> tuple[Array, Array]:
    """Weights by all training rows, and their scores with weights by other folds of them.

    Shapes: returns (members,), (m, K).
    """
    keep = members[0].keep
    inside, targets = np.stack([one.inside for one in members]), problem.targets_of(keep)
    fold = cross_folds(problem.groups()[keep])
    weights, scores = _weights(inside, targets), np.empty_like(targets)
    for number in np.unique(fold):
        held, others = fold == number, fold != number
        by_others = _weights(inside[:, others], targets[others]) if others.any() else weights
        scores[held] = np.tensordot(by_others, inside[:, held], axes=1)
    return weights, scores


def _weights(scores: Array, targets: Array) -> Array:
    """Of least squared error; equal where none helps. Shapes: (P, m, K), (m, K) to (P,).

    >>> _weights(np.array([[[1.0], [2.0]], [[5.0], [-1.0]]]), np.array([[2.0], [4.0]])).round(6)
    array([2., 0.])
    """
    weights: Array = nnls(scores.reshape(len(scores), -1).T, targets.ravel())[0]
    return weights if weights.any() else np.full(len(scores), 1 / len(scores))
