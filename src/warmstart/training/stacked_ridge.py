"""Ridges on several depths in one: their sum, weighted by what each says of rows left out.

Breiman 1996, "Stacked Regressions": weights of least squared error on left-out predictions, none
below zero. A sum of linear outputs is a linear output. On pairs and turned pictures it was better
than the best depth alone (`bench run tasks`).
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
class _Told:
    """A member at the penalty of least squared error, in one training set.

    Shapes: keep (m,), inside (m, K) of kept rows left out, outside (n - m, K).
    """

    error: float
    penalty: float
    keep: Rows
    inside: Array
    outside: Array


@dataclass(frozen=True, slots=True)
class Stacked:
    """A family made of others, by name."""

    members: Mapping[str, KernelRidge]

    def trials(self, problem: SelectionProblem) -> Trials:
        """Judge the sum in every training set; weights for a part of the rows come from others."""
        found: Trials = []
        for told in zip(*(_told(one, problem) for one in self.members.values()), strict=True):
            keep = told[0].keep
            weights, inside = _weighed(told, problem)
            outside = np.tensordot(weights, np.stack([one.outside for one in told]), axes=1)
            found.append([judge(problem, keep, 0.0, inside, outside)])
        return found

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Fit on all rows; each member has a penalty of its own."""
        told = [_told(one, problem)[-1] for one in self.members.values()]
        weights, scores = _weighed(told, problem)
        columns: dict[FeatureLayer, Array] = {}
        bias = np.zeros(problem.n_classes)
        for weight, one, member in zip(weights, told, self.members.values(), strict=True):
            if not weight:
                continue
            fit = member.refit(problem, one.penalty)
            bias += weight * fit.bias
            for layer, inner in fit.weights.items():
                columns[layer] = columns.get(layer, 0.0) + weight * inner
        return Refit(scores, columns, bias)


def _told(member: KernelRidge, problem: SelectionProblem) -> list[_Told]:
    """In every training set, the last of which holds all rows."""
    best: list[_Told] = []
    for penalty in member.penalties:
        for number, (keep, inside, outside) in enumerate(member.left_out(problem, penalty)):
            error = float(((inside - problem.targets_of(keep)) ** 2).mean())
            one = _Told(error, penalty, keep, inside, outside)
            if number == len(best):
                best.append(one)
            elif error < best[number].error:
                best[number] = one
    return best


def _weighed(told: Sequence[_Told], problem: SelectionProblem) -> tuple[Array, Array]:
    """Weights by all kept rows, and their scores with weights by other parts of them.

    Shapes: returns (members,), (m, K).
    """
    keep = told[0].keep
    said, targets = np.stack([one.inside for one in told]), problem.targets_of(keep)
    part = cross_folds(problem.groups()[keep])
    whole, scores = _weights(said, targets), np.empty_like(targets)
    for number in np.unique(part):
        inside, others = part == number, part != number
        weights = _weights(said[:, others], targets[others]) if others.any() else whole
        scores[inside] = np.tensordot(weights, said[:, inside], axes=1)
    return whole, scores


def _weights(said: Array, targets: Array) -> Array:
    """Of least squared error; all alike where none is of use. Shapes: (P, m, K), (m, K).

    >>> _weights(np.array([[[1.0], [2.0]], [[5.0], [-1.0]]]), np.array([[2.0], [4.0]])).round(6)
    array([2., 0.])
    """
    found: Array = nnls(said.reshape(len(said), -1).T, targets.ravel())[0]
    return found if found.any() else np.full(len(said), 1 / len(said))
