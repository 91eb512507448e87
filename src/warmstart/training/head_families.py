"""Families of linear heads, and the choice among them: ridges, class means, logistic, stacked.

The penalty is chosen by the one-standard-error rule, then the simplest head that ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import nnls

from warmstart.data.dataset import Collection
from warmstart.distributed import here
from warmstart.planning.rules import LayerWeights
from warmstart.records.findings import Finding
from warmstart.records.network import FeatureLayer
from warmstart.solve import (
    classifiers,
    kernels,
    primal_ridge,
    ridge,
    ridge_with_prior,
)
from warmstart.solve.calibration import Calibration, Labels
from warmstart.solve.classifiers import Linear, logistic_path
from warmstart.solve.kernels import Features, apply_scaling, fit_scaling
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


# ---- Head families on a kernel.

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


# ---- Ridge for many rows: sketched features, a few rows in memory at a time.

SKETCH_WIDTH = 2048  # features in the primal form
CHUNK_ROWS = 512  # in memory at a time, except for a larger group
LARGE = 1024  # rows of a group from which solving again without it costs less


@dataclass(frozen=True, slots=True)
class Embedding:
    """Feature layers, scaled, weighted, joined and sketched to (n, width).

    The `scale` of each of `scalings` includes the square root of the layer's weight.
    """

    read: ReadFeatures
    scalings: Mapping[FeatureLayer, kernels.Scaling]
    sketch: kernels.Sketch

    def rows(self, rows: Rows) -> kernels.Features:
        features = [chunk for _, chunk in self.row_chunks(rows)]
        return features[0] if len(features) == 1 else np.concatenate(features)

    def row_chunks(self, rows: Rows) -> Iterator[tuple[slice, kernels.Features]]:
        """Chosen rows, a few at a time: their places among `rows`, and their features."""
        start = 0
        for chunk in kernels.chunks(kernels.some(self.read, rows), [*self.scalings]):
            scaled = [kernels.apply_scaling(chunk[layer], s) for layer, s in self.scalings.items()]
            features = self.sketch.apply(np.concatenate(scaled, axis=1))
            yield slice(start, start + len(features)), features
            start += len(features)

    def over_layers(self, weights: Array) -> tuple[dict[FeatureLayer, Array], Array]:
        """Weights over feature layers from weights (width, K); the shift of the bias."""
        unsketched = self.sketch.sign[:, None] * weights[self.sketch.target]
        by_layer, shift, start = {}, np.zeros(weights.shape[1]), 0
        for layer, scaling in self.scalings.items():
            stop = start + len(scaling.scale)
            by_layer[layer] = scaling.scale[:, None] * unsketched[start:stop]
            shift -= scaling.offset @ by_layer[layer]
            start = stop
        return by_layer, shift


@dataclass(frozen=True, slots=True)
class SketchedRidge:
    """Ridge on sketched feature layers; memory does not grow with the rows."""

    layer_weights: LayerWeights
    read: ReadFeatures
    penalties: Sequence[float]
    rng_seed: int

    def embedding(self) -> Embedding:
        """Scaling and sketch: label-free, shared by all training sets."""
        scalings = kernels.fit_scalings(self.read, [*self.layer_weights])
        for layer, scaling in scalings.items():
            scale = np.sqrt(self.layer_weights[layer]) * scaling.scale
            scalings[layer] = kernels.Scaling(scaling.offset, scale)
        width = sum(len(scaling.scale) for scaling in scalings.values())
        sketch = kernels.make_sketch(width, SKETCH_WIDTH, np.random.default_rng(self.rng_seed))
        return Embedding(self.read, scalings, sketch)

    def trials(self, problem: SelectionProblem) -> Iterator[list[Trial]]:
        """One eigendecomposition per training set serves every penalty."""
        embedding = self.embedding()
        total = _add_up(embedding, problem, np.arange(len(problem.labels)))
        for keep, fold in problem.training_sets():
            sums = total.minus(_add_up(embedding, problem, fold))
            inside, fits = _fit(embedding, problem, keep, sums, self.penalties)
            outside = [np.empty((len(fold), problem.n_classes)) for _ in fits]
            for places, features in embedding.row_chunks(fold):
                for scores, (weights, bias) in zip(outside, fits, strict=True):
                    scores[places] = features @ weights + bias
            yield [
                judge(problem, keep, penalty, within.astype(float), beyond)
                for penalty, within, beyond in zip(self.penalties, inside, outside, strict=True)
            ]

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Fit on all rows and undo the sketch."""
        embedding, rows = self.embedding(), np.arange(len(problem.labels))
        sums = _add_up(embedding, problem, rows)
        (scores,), ((weights, bias),) = _fit(embedding, problem, rows, sums, [penalty])
        by_layer, shift = embedding.over_layers(weights)
        return Refit(scores.astype(float), by_layer, bias + shift)


def _add_up(embedding: Embedding, problem: SelectionProblem, rows: Rows) -> primal_ridge.Sums:
    """Sums over some rows; each of several processes adds up its share."""
    world = here()
    share = np.array_split(rows, world.size)[world.rank]
    pairs = (
        (features, problem.targets_of(share[places]))
        for places, features in embedding.row_chunks(share)
    )
    sums = primal_ridge.accumulate(pairs, embedding.sketch.width, problem.n_classes)
    return sums if world.size == 1 else sums.over(world.reduce_sum)


def _fit(
    embedding: Embedding,
    problem: SelectionProblem,
    keep: Rows,
    sums: primal_ridge.Sums,
    penalties: Sequence[float],
) -> tuple[list[kernels.Features], list[tuple[Array, Array]]]:
    """Per penalty the scores (m, K) of each training row without its group, and (W, b).

    Overwrites `sums`. Scores lie between 0 and 1: single precision is enough for so many.
    """
    group_rows = groups_within(problem.group_rows, keep, len(problem.labels))
    inside = [np.empty((len(keep), problem.n_classes), np.float32) for _ in penalties]
    for rows in [rows for rows in group_rows if len(rows) >= LARGE]:
        # Solve again without a large group.
        others = sums.minus(_add_up(embedding, problem, keep[rows]))
        for scores, penalty in zip(inside, penalties, strict=True):
            weights, bias = primal_ridge.solve_cholesky(others, penalty)
            features = embedding.row_chunks(keep[rows])
            scores[rows] = np.concatenate([chunk @ weights + bias for _, chunk in features])
    space = primal_ridge.spectrum(sums)
    for rows, within in group_chunks([rows for rows in group_rows if len(rows) < LARGE]):
        rotated = space.rotate(embedding.rows(keep[rows]))
        targets = problem.targets_of(keep[rows])
        for scores, penalty in zip(inside, penalties, strict=True):
            scores[rows] = primal_ridge.left_out(space, rotated, targets, penalty, within)
    return inside, [primal_ridge.solve(space, penalty) for penalty in penalties]


def group_chunks(group_rows: Sequence[Rows]) -> Iterator[tuple[Rows, list[Rows]]]:
    """Whole groups, up to `CHUNK_ROWS` rows: the rows, and the places of each group among them."""
    joined, size = list[list[Rows]](), 0
    for rows in group_rows:
        if not joined or size + len(rows) > CHUNK_ROWS:
            joined.append([])
            size = 0
        joined[-1].append(rows)
        size += len(rows)
    for groups in joined:
        ends = np.cumsum([len(rows) for rows in groups])
        yield np.concatenate(groups), np.split(np.arange(ends[-1]), ends[:-1])


# ---- A head that continues an older one.

SUFFIX = "+prior"  # of a candidate's name: the same feature layers, with an older head as prior


@dataclass(frozen=True, slots=True)
class Prior:
    """An older head in the order of the new classes.

    Shapes: weights (d_t, K) per feature layer and bias (K,), for scores sum_t x_t W_t + b on
    unscaled features, of any scale; zeros for a class that the older head does not have.
    `has_class` (K,): which classes it has.
    """

    weights: dict[FeatureLayer, Array]
    bias: Array
    has_class: tuple[bool, ...]

    def scores(self, read: ReadFeatures) -> Array:
        """Scores of the older head. Shapes: read gives (n, d_t) per layer; returns (n, K)."""
        total = self.bias
        for layer, weight in self.weights.items():
            total = total + read(layer) @ weight
        return total


def prior_of(
    feature_layers: Sequence[FeatureLayer],
    widths: Sequence[int],
    head: tuple[Array, Array],
    names: Sequence[str],
    classes: Sequence[str],
) -> Prior | None:
    """Bring an older head into the order of `classes`; None where no name is shared.

    Shapes: head is weight (K', D) with D the sum of the layers' `widths`, and bias (K',), in
    the order of `names`.

    >>> layer = FeatureLayer(block=1, pool="neck")
    >>> head = np.array([[1.0], [2.0]]), np.array([0.1, 0.2])
    >>> prior_of([layer], [1], head, ["cat", "dog"], ["ant", "dog"]).bias.tolist()
    [0.0, 0.2]
    >>> prior_of([layer], [1], head, ["cat", "dog"], ["ant", "bee"]) is None
    True
    """
    row = {name: number for number, name in enumerate(names)}
    has_class = tuple(name in row for name in classes)
    if not any(has_class):
        return None
    weight, bias = np.zeros((len(classes), head[0].shape[1])), np.zeros(len(classes))
    for index, name in enumerate(classes):
        if name in row:
            weight[index], bias[index] = head[0][row[name]], head[1][row[name]]
    columns = np.split(weight, np.cumsum(widths)[:-1], axis=1)
    weights = {layer: column.T for layer, column in zip(feature_layers, columns, strict=True)}
    return Prior(weights, bias, has_class)


@dataclass(frozen=True)
class PriorRidge(KernelRidge):
    """Ridge shrunk towards a fitted multiple of an older head: `solve.ridge_with_prior`."""

    prior: Prior

    @cached_property
    def _prior_scores(self) -> Array:
        return self.prior.scores(self.read)

    def _fit(self, problem: SelectionProblem, penalty: float) -> tuple[ModuleType, Any]:
        scores = self._prior_scores
        fit = ridge_with_prior.fit(self.kernel, problem.targets, scores, penalty)
        return ridge_with_prior, fit

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """The weights cover the older head's feature layers and the candidate's."""
        _, fit = self._fit(problem, penalty)
        factor, coefficients = ridge_with_prior.solve(fit)
        weights, shift = self.over_layers(coefficients)
        intercept = ridge_with_prior.intercept(self.kernel, fit, penalty)
        bias = intercept + shift + factor * self.prior.bias
        for layer, old in self.prior.weights.items():
            weights[layer] = weights[layer] + factor * old if layer in weights else factor * old
        return Refit(ridge_with_prior.left_out(fit, problem.group_rows), weights, bias)


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a run passes on to one that starts from it: its head, and data leakage it brings."""

    prior: Prior | None = None
    leak: Finding | None = None

    def names(self, probe_layers: Sequence[str]) -> tuple[str, ...]:
        """Names of the candidate heads over these feature layers, for the plan."""
        return tuple(f"{name}{SUFFIX}" if self.prior else name for name in probe_layers)

    def with_leak(self, collection: Collection) -> Collection:
        """The collection with the leakage among its findings."""
        record = collection.record
        if self.leak is None:
            return collection
        return replace(collection, record=replace(record, problems=(*record.problems, self.leak)))


NOTHING = Inheritance()
