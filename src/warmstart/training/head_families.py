"""Head families: ridge, nearest class mean and logistic regression on a kernel.

Each can be evaluated in every training set and refitted on all rows. A refit returns linear
weights over feature layers, so that the network's last layer is one matrix for every family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import eigh

from warmstart.records.network import FeatureLayer
from warmstart.solve import nearest_mean, ridge
from warmstart.solve.kernels import Features, apply_scaling, fit_scaling
from warmstart.solve.logistic import Linear, logistic_path
from warmstart.solve.ridge import Array, Rows
from warmstart.training.selection import SelectionProblem, Trial, Trials, groups_within, judge

ReadFeatures = Callable[[FeatureLayer], Features]
LayerWeights = Mapping[FeatureLayer, float]

LOGISTIC_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)  # in units of the kernel's mean diagonal
_RANK = 1e-7  # kernel axes below this share of the largest hold rounding errors only


@dataclass(frozen=True, slots=True)
class Refit:
    """A family fitted on all rows.

    Shapes: scores (n, K), each row's without its group; weights (d_t, K) per feature layer and
    bias (K,), for predictions sum_t x_t W_t + b on unscaled features.
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


def over_layers(
    coefficients: Array, layer_weights: LayerWeights, read: ReadFeatures
) -> tuple[dict[FeatureLayer, Array], Array]:
    """Weights over feature layers from dual coefficients (n, K); the shift of the bias."""
    weights, shift = {}, np.zeros(coefficients.shape[1])
    for layer, share in layer_weights.items():
        features = read(layer)
        scaling = fit_scaling(features)
        inner = apply_scaling(features, scaling).T @ coefficients
        weights[layer] = share * scaling.scale[:, None] * inner
        shift -= scaling.offset @ weights[layer]
    return weights, shift


@dataclass(frozen=True, slots=True)
class KernelRidge:
    """Ridge on a mixed kernel. Shapes: kernel (n, n)."""

    kernel: Array
    layer_weights: LayerWeights
    read: ReadFeatures
    penalties: Sequence[float]

    def left_out(
        self, problem: SelectionProblem, penalty: float
    ) -> Iterator[tuple[Rows, Array, Array]]:
        """For every training set its rows, their left-out scores, the scores of other rows.

        One inverse serves every fold. Shapes: (m,), (m, K), (n - m, K).
        """
        dual = ridge.fit(self.kernel, problem.targets, penalty)
        for keep, fold in problem.training_sets():
            if len(fold):
                yield ridge.nested(dual, fold, problem.group_rows)
            else:
                yield keep, ridge.left_out(dual, problem.group_rows), dual.targets[:0]

    def trials(self, problem: SelectionProblem) -> Trials:
        trials: Trials = [[] for _ in problem.training_sets()]
        for penalty in self.penalties:
            for number, (keep, inside, outside) in enumerate(self.left_out(problem, penalty)):
                trials[number].append(judge(problem, keep, penalty, inside, outside))
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        dual = ridge.fit(self.kernel, problem.targets, penalty)
        weights, shift = over_layers(dual.coefficients, self.layer_weights, self.read)
        bias = ridge.intercept(self.kernel, dual, penalty) + shift
        return Refit(ridge.left_out(dual, problem.group_rows), weights, bias)


@dataclass(frozen=True, slots=True)
class ClassMean:
    """Nearest class mean on a kernel; it has no penalty. Shapes: kernel (n, n)."""

    kernel: Array
    layer_weights: LayerWeights
    read: ReadFeatures

    def trials(self, problem: SelectionProblem) -> Trials:
        trials: Trials = []
        for keep, fold in problem.training_sets():
            inner, labels = self.kernel[np.ix_(keep, keep)], problem.labels[keep]
            group_rows = groups_within(problem.group_rows, keep, len(self.kernel))
            inside = nearest_mean.left_out_class_means(inner, labels, problem.n_classes, group_rows)
            weights, bias = nearest_mean.class_mean_weights(inner, labels, problem.n_classes)
            outside = self.kernel[np.ix_(fold, keep)] @ weights + bias
            trials.append([judge(problem, keep, 0.0, inside, outside)])
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        coefficients, bias = nearest_mean.class_mean_weights(
            self.kernel, problem.labels, problem.n_classes
        )
        scores = nearest_mean.left_out_class_means(
            self.kernel, problem.labels, problem.n_classes, problem.group_rows
        )
        weights, shift = over_layers(coefficients, self.layer_weights, self.read)
        return Refit(scores, weights, bias + shift)


@dataclass(frozen=True, slots=True)
class Logistic:
    """Logistic path in the kernel's own axes, evaluated by three inner folds; kernel (n, n)."""

    kernel: Array
    layer_weights: LayerWeights
    read: ReadFeatures

    def _axes(self) -> tuple[Array, Array]:
        values, axes = eigh(ridge.centred(self.kernel), driver="evd")
        is_used = values > _RANK * values[-1]
        return axes[:, is_used], np.sqrt(values[is_used])

    def _left_out(
        self,
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

    def trials(self, problem: SelectionProblem) -> Trials:
        axes, size = self._axes()
        coordinates, trials = axes * size, []
        for number, (keep, fold) in enumerate(problem.training_sets()):
            inside = self._left_out(coordinates, problem, number, keep, LOGISTIC_PENALTIES)
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
        scores = self._left_out(coordinates, problem, len(problem.folds), everything, [penalty])
        (fit,) = _path(coordinates, problem, everything, [penalty])
        coefficients = (axes / size) @ fit.weights
        # The axes are those of the centred kernel; predictions use the plain one.
        bias = fit.bias - (self.kernel @ coefficients).mean(axis=0)
        weights, shift = over_layers(coefficients, self.layer_weights, self.read)
        return Refit(scores[0], weights, bias + shift)


def _path(
    coordinates: Array, problem: SelectionProblem, rows: Rows, penalties: Sequence[float]
) -> list[Linear]:
    return logistic_path(coordinates[rows], problem.labels[rows], problem.n_classes, penalties)
