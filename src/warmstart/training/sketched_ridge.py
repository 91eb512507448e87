"""Ridge for many rows: at most 2,048 sketched features, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmstart.distributed import here
from warmstart.planning.rules import LayerWeights
from warmstart.records.network import FeatureLayer
from warmstart.solve import kernels, primal_ridge
from warmstart.solve.ridge import Array, Rows
from warmstart.training.head_families import ReadFeatures, Refit
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
