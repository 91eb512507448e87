"""Head families on a kernel: ridge, nearest class mean, logistic regression, stacked ridges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import nnls

from warmstart.planning.rules import LayerWeights
from warmstart.records.network import FeatureLayer
from warmstart.solve import classifiers, ridge
from warmstart.solve.classifiers import Linear, logistic_path
from warmstart.solve.kernels import Features, apply_scaling, fit_scaling
from warmstart.solve.ridge import Array, Rows
from warmstart.training.selection import (
    SelectionProblem,
    Trial,
    Trials,
    cross_folds,
    groups_within,
    judge,
)

ReadFeatures = Callable[[FeatureLayer], Features]

STACK = "stack"  # the name of stacked ridges among candidates
LOGISTIC_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)  # in units of the kernel's mean diagonal
_RANK = 1e-7  # kernel axes below this share of the largest hold rounding errors only


@dataclass(frozen=True, slots=True)
class Refit:
    """A family fitted on all rows, for predictions sum_t x_t W_t + b on unscaled features.

    Shapes: scores (n, K), each row's without its group; weights (d_t, K), bias (K,).
    """

    scores: Array
    weights: dict[FeatureLayer, Array]
    bias: Array


class Family(Protocol):
    """One kind of head."""

    def trials(self, problem: SelectionProblem) -> Iterable[list[Trial]]:
        """Evaluate every penalty, weakest first, in every training set."""
        ...

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Fit on all rows."""
        ...


@dataclass(frozen=True, slots=True)
class _KernelFamily:
    """A family on a mixed kernel. Shapes: kernel (n, n)."""

    kernel: Array
    layer_weights: LayerWeights
    read: ReadFeatures

    def over_layers(self, coefficients: Array) -> tuple[dict[FeatureLayer, Array], Array]:
        """Weights over feature layers from dual coefficients (n, K); the shift of the bias."""
        weights, shift = {}, np.zeros(coefficients.shape[1])
        for layer, share in self.layer_weights.items():
            features = self.read(layer)
            scaling = fit_scaling(features)
            inner = apply_scaling(features, scaling).T @ coefficients
            weights[layer] = share * scaling.scale[:, None] * inner
            shift -= scaling.offset @ weights[layer]
        return weights, shift


@dataclass(frozen=True, slots=True)
class KernelRidge(_KernelFamily):
    """Ridge on a mixed kernel."""

    penalties: Sequence[float]

    def left_out(
        self, problem: SelectionProblem, penalty: float
    ) -> Iterator[tuple[Rows, Array, Array]]:
        """For every training set its rows, their left-out scores, the scores of other rows.

        One inverse serves every fold. Shapes: (m,), (m, K), (n - m, K).
        """
        solver, fit = self._fit(problem, penalty)
        for keep, fold in problem.training_sets():
            if len(fold):
                yield solver.nested(fit, fold, problem.group_rows)
            else:
                yield keep, solver.left_out(fit, problem.group_rows), problem.targets[:0]

    def _fit(self, problem: SelectionProblem, penalty: float) -> tuple[ModuleType, Any]:
        """The solver's module, and its fit on all rows."""
        return ridge, ridge.fit(self.kernel, problem.targets, penalty)

    def trials(self, problem: SelectionProblem) -> Trials:
        trials: Trials = [[] for _ in problem.training_sets()]
        for penalty in self.penalties:
            for number, (keep, inside, outside) in enumerate(self.left_out(problem, penalty)):
                trials[number].append(judge(problem, keep, penalty, inside, outside))
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        dual = ridge.fit(self.kernel, problem.targets, penalty)
        weights, shift = self.over_layers(dual.coefficients)
        bias = ridge.intercept(self.kernel, dual, penalty) + shift
        return Refit(ridge.left_out(dual, problem.group_rows), weights, bias)


@dataclass(frozen=True, slots=True)
class ClassMean(_KernelFamily):
    """Nearest class mean on a kernel; it has no penalty."""

    def trials(self, problem: SelectionProblem) -> Trials:
        trials: Trials = []
        for keep, fold in problem.training_sets():
            inner, labels = self.kernel[np.ix_(keep, keep)], problem.labels[keep]
            group_rows = groups_within(problem.group_rows, keep, len(self.kernel))
            inside = classifiers.left_out_class_means(inner, labels, problem.n_classes, group_rows)
            weights, bias = classifiers.class_mean_weights(inner, labels, problem.n_classes)
            outside = self.kernel[np.ix_(fold, keep)] @ weights + bias
            trials.append([judge(problem, keep, 0.0, inside, outside)])
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        kernel, labels, n_classes = self.kernel, problem.labels, problem.n_classes
        coefficients, bias = classifiers.class_mean_weights(kernel, labels, n_classes)
        scores = classifiers.left_out_class_means(kernel, labels, n_classes, problem.group_rows)
        weights, shift = self.over_layers(coefficients)
        return Refit(scores, weights, bias + shift)


@dataclass(frozen=True, slots=True)
class Logistic(_KernelFamily):
    """Logistic path in the kernel's own axes, evaluated by three inner folds."""

    def trials(self, problem: SelectionProblem) -> Trials:
        axes, size = self._axes()
        coordinates, trials = axes * size, []
        for number, (keep, fold) in enumerate(problem.training_sets()):
            inside = _inner_scores(coordinates, problem, number, keep, LOGISTIC_PENALTIES)
            fits = _path(coordinates, problem, keep, LOGISTIC_PENALTIES)
            trials.append(
                [
                    judge(problem, keep, penalty, inner[keep], fit.scores(coordinates[fold]))
                    for penalty, inner, fit in zip(LOGISTIC_PENALTIES, inside, fits, strict=True)
                ]
            )
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        axes, size = self._axes()
        coordinates, everything = axes * size, np.arange(len(self.kernel))
        number = len(problem.folds)
        (scores,) = _inner_scores(coordinates, problem, number, everything, [penalty])
        (fit,) = _path(coordinates, problem, everything, [penalty])
        coefficients = (axes / size) @ fit.weights
        # The axes are those of the centred kernel; predictions use the plain one.
        bias = fit.bias - (self.kernel @ coefficients).mean(axis=0)
        weights, shift = self.over_layers(coefficients)
        return Refit(scores, weights, bias + shift)

    def _axes(self) -> tuple[Array, Array]:
        values, axes = eigh(ridge.centred(self.kernel), driver="evd")
        is_used = values > _RANK * values[-1]
        return axes[:, is_used], np.sqrt(values[is_used])


def _inner_scores(
    coordinates: Array,
    problem: SelectionProblem,
    number: int,
    keep: Rows,
    penalties: Sequence[float],
) -> Array:
    """Scores of the training rows from inner folds made of outer ones: (penalties, n, K)."""
    rest = [rows for i, rows in enumerate(problem.folds) if i != number]
    scores = np.zeros((len(penalties), len(coordinates), problem.n_classes))
    for start in range(min(3, len(rest))):
        fold = np.concatenate(rest[start::3])
        fits = _path(coordinates, problem, np.setdiff1d(keep, fold), penalties)
        scores[:, fold] = np.stack([fit.scores(coordinates[fold]) for fit in fits])
    return scores


def _path(
    coordinates: Array, problem: SelectionProblem, rows: Rows, penalties: Sequence[float]
) -> list[Linear]:
    return logistic_path(coordinates[rows], problem.labels[rows], problem.n_classes, penalties)


@dataclass(frozen=True, slots=True)
class Stacked:
    """A sum of ridges, weighted by their leave-one-group-out predictions.

    Breiman 1996, "Stacked Regressions": weights of least squared error, none below zero. On pairs
    and turned pictures it was better than the best layer alone (`bench run tasks`).
    """

    members: Mapping[str, KernelRidge]

    def trials(self, problem: SelectionProblem) -> Trials:
        trials: Trials = []
        scores_by_member = (_member_scores(member, problem) for member in self.members.values())
        for members in zip(*scores_by_member, strict=True):
            weights, inside = _combine(members, problem)
            outside = np.tensordot(weights, np.stack([one.outside for one in members]), axes=1)
            trials.append([judge(problem, members[0].keep, 0.0, inside, outside)])
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Each member has its own penalty."""
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


class _MemberScores(NamedTuple):
    """Scores of a member of a stack at the penalty of least squared error, in one training set."""

    error: float
    penalty: float
    keep: Rows  # (m,)
    inside: Array  # (m, K), left-out scores of the training rows
    outside: Array  # (n - m, K)


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
    """Weights (members,) by all training rows, and scores (m, K) with weights by other folds."""
    keep = members[0].keep
    inside, targets = np.stack([one.inside for one in members]), problem.targets_of(keep)
    fold = cross_folds(problem.groups()[keep])
    weights, scores = _stack_weights(inside, targets), np.empty_like(targets)
    for number in np.unique(fold):
        held, others = fold == number, fold != number
        by_others = _stack_weights(inside[:, others], targets[others]) if others.any() else weights
        scores[held] = np.tensordot(by_others, inside[:, held], axes=1)
    return weights, scores


def _stack_weights(scores: Array, targets: Array) -> Array:
    """Of least squared error; equal where none helps. Shapes: (P, m, K), (m, K) to (P,)."""
    weights: Array = nnls(scores.reshape(len(scores), -1).T, targets.ravel())[0]
    return weights if weights.any() else np.full(len(scores), 1 / len(scores))
