"""Ridge for many rows: at most 2,048 sketched features, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.distributed import here
from warmstart.records.network import FeatureLayer
from warmstart.solve import primal_ridge
from warmstart.solve.kernels import (
    Features,
    Scaling,
    Sketch,
    apply_scaling,
    chunks,
    fit_scalings,
    make_sketch,
    some,
)
from warmstart.solve.ridge import Array, Rows
from warmstart.training.head_families import LayerWeights, ReadFeatures, Refit
from warmstart.training.selection import SelectionProblem, Trial, groups_within, judge

SKETCH_WIDTH = 2048  # features in the primal form
CHUNK_ROWS = 512  # in memory at a time, except for a larger group
LARGE = 1024  # rows of a group from which solving again without it costs less


@dataclass(frozen=True, slots=True)
class Embedding:
    """Feature layers, scaled, weighted, joined and sketched to (n, width).

    The `scale` of each of `scalings` includes the square root of the layer's weight.
    """

    read: ReadFeatures
    scalings: Mapping[FeatureLayer, Scaling]
    sketch: Sketch

    def rows(self, rows: Rows) -> Features:
        """Chosen rows. Shapes: returns (len(rows), width)."""
        features = [*self.row_chunks(rows)]
        return features[0] if len(features) == 1 else np.concatenate(features)

    def row_chunks(self, rows: Rows) -> Iterator[Features]:
        """Chosen rows, a few at a time."""
        layers = [*self.scalings]
        for chunk in chunks(some(self.read, rows), layers):
            scaled = [apply_scaling(chunk[layer], self.scalings[layer]) for layer in layers]
            yield self.sketch.apply(np.concatenate(scaled, axis=1))

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
        scalings = {
            layer: Scaling(scaling.offset, np.sqrt(self.layer_weights[layer]) * scaling.scale)
            for layer, scaling in fit_scalings(self.read, [*self.layer_weights]).items()
        }
        width = sum(len(scaling.scale) for scaling in scalings.values())
        sketch = make_sketch(width, SKETCH_WIDTH, np.random.default_rng(self.rng_seed))
        return Embedding(self.read, scalings, sketch)

    def trials(self, problem: SelectionProblem) -> Iterator[list[Trial]]:
        """One eigendecomposition per training set serves every penalty."""
        embedding = self.embedding()
        total = _add_up(embedding, problem, np.arange(len(problem.labels)))
        for keep, fold in problem.training_sets():
            sums = total.minus(_add_up(embedding, problem, fold))
            yield _TrainingSet(embedding, problem, keep, sums).trials(self.penalties, fold)

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Fit on all rows and undo the sketch."""
        embedding, rows = self.embedding(), np.arange(len(problem.labels))
        training_set = _TrainingSet(embedding, problem, rows, _add_up(embedding, problem, rows))
        (scores,), ((weights, bias),) = training_set.fit([penalty])
        by_layer, shift = embedding.over_layers(weights)
        return Refit(scores.astype(float), by_layer, bias + shift)


def _add_up(embedding: Embedding, problem: SelectionProblem, rows: Rows) -> primal_ridge.Sums:
    """Sums over some rows; each of several processes adds up its share."""
    world = here()
    rows = np.array_split(rows, world.size)[world.rank]

    def pairs() -> Iterator[tuple[Features, Array]]:
        start = 0
        for features in embedding.row_chunks(rows):
            stop = start + len(features)
            yield features, problem.targets_of(rows[start:stop])
            start = stop

    sums = primal_ridge.accumulate(pairs(), embedding.sketch.width, problem.n_classes)
    return sums if world.size == 1 else sums.over(world.reduce_sum)


@dataclass(frozen=True, slots=True)
class _TrainingSet:
    """Training rows with their sums, which the fit overwrites."""

    embedding: Embedding
    problem: SelectionProblem
    keep: Rows
    sums: primal_ridge.Sums

    def trials(self, penalties: Sequence[float], fold: Rows) -> list[Trial]:
        """Evaluate each penalty on the training rows; score the fold."""
        inside, fits = self.fit(penalties)
        outside = [np.empty((len(fold), self.problem.n_classes)) for _ in penalties]
        start = 0
        for features in self.embedding.row_chunks(fold):
            stop = start + len(features)
            for scores, (weights, bias) in zip(outside, fits, strict=True):
                scores[start:stop] = features @ weights + bias
            start = stop
        return [
            judge(self.problem, self.keep, penalty, within.astype(float), beyond)
            for penalty, within, beyond in zip(penalties, inside, outside, strict=True)
        ]

    def fit(self, penalties: Sequence[float]) -> tuple[list[Features], list[tuple[Array, Array]]]:
        """Per penalty the scores (m, K) of each training row without its group, and (W, b).

        Scores lie between 0 and 1: single precision is enough, as there are many of them.
        """
        group_rows = groups_within(self.problem.group_rows, self.keep, len(self.problem.labels))
        shape = len(self.keep), self.problem.n_classes
        inside = [np.empty(shape, np.float32) for _ in penalties]
        for rows in [rows for rows in group_rows if len(rows) >= LARGE]:
            # Solve again without a large group.
            others = self.sums.minus(_add_up(self.embedding, self.problem, self.keep[rows]))
            for scores, penalty in zip(inside, penalties, strict=True):
                weights, bias = primal_ridge.solve_cholesky(others, penalty)
                features = self.embedding.row_chunks(self.keep[rows])
                scores[rows] = np.concatenate([chunk @ weights + bias for chunk in features])
        space = primal_ridge.spectrum(self.sums)
        for rows, within in group_chunks([rows for rows in group_rows if len(rows) < LARGE]):
            rotated = space.rotate(self.embedding.rows(self.keep[rows]))
            targets = self.problem.targets_of(self.keep[rows])
            for scores, penalty in zip(inside, penalties, strict=True):
                scores[rows] = primal_ridge.left_out(space, rotated, targets, penalty, within)
        return inside, [primal_ridge.solve(space, penalty) for penalty in penalties]


def group_chunks(group_rows: Sequence[Rows]) -> Iterator[tuple[Rows, list[Rows]]]:
    """Whole groups together, up to `CHUNK_ROWS` rows: the rows, and each group's places there.

    >>> pairs = [np.array([0, 3]), np.array([1]), np.array([2])]
    >>> [(rows.tolist(), [g.tolist() for g in within]) for rows, within in group_chunks(pairs)]
    [([0, 3, 1, 2], [[0, 1], [2], [3]])]
    """
    groups: list[Rows] = []
    size = 0
    for rows in group_rows:
        if groups and size + len(rows) > CHUNK_ROWS:
            yield _join(groups)
            groups, size = [], 0
        groups.append(rows)
        size += len(rows)
    if groups:
        yield _join(groups)


def _join(group_rows: list[Rows]) -> tuple[Rows, list[Rows]]:
    ends = np.cumsum([len(rows) for rows in group_rows])
    return np.concatenate(group_rows), np.split(np.arange(ends[-1]), ends[:-1])
