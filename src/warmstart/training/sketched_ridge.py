"""Ridge for many rows: the joined taps, at most 2,048 features of them, a few rows at a time."""

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

SKETCH_WIDTH = 2048  # features kept in the primal form
STRETCH = 512  # rows in memory at a time, but for a larger block
LARGE = 1024  # rows of a block from which leaving it out by solving anew costs less


@dataclass(frozen=True, slots=True)
class Embedding:
    """The taps of a profile, scaled, weighted, joined and sketched to (n, width).

    `scalings` have the square root of the tap's share in their scale.
    """

    read: ReadFeatures
    scalings: Mapping[FeatureLayer, Scaling]
    sketch: Sketch

    def rows(self, rows: Rows) -> Features:
        """Chosen rows. Shapes: returns (len(rows), width)."""
        found = [*self.stretches(rows)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def stretches(self, rows: Rows) -> Iterator[Features]:
        """Chosen rows, a few at a time."""
        feature_layers = [*self.scalings]
        for chunk in chunks(some(self.read, rows), feature_layers):
            wide = [apply_scaling(chunk[layer], self.scalings[layer]) for layer in feature_layers]
            yield self.sketch.apply(np.concatenate(wide, axis=1))

    def over_layers(self, weights: Array) -> tuple[dict[FeatureLayer, Array], Array]:
        """Weights (width, K) as weights over taps, and what the centring adds to the bias."""
        wide = self.sketch.sign[:, None] * weights[self.sketch.target]
        by_layer, shift, start = {}, np.zeros(weights.shape[1]), 0
        for layer, scaling in self.scalings.items():
            stop = start + len(scaling.scale)
            by_layer[layer] = scaling.scale[:, None] * wide[start:stop]
            shift -= scaling.offset @ by_layer[layer]
            start = stop
        return by_layer, shift


@dataclass(frozen=True, slots=True)
class SketchedRidge:
    """Ridge on the sketched taps of a profile; memory does not grow with the rows."""

    layer_weights: LayerWeights
    read: ReadFeatures
    penalties: Sequence[float]
    rng_seed: int

    def embedding(self) -> Embedding:
        """How rows are seen: label-free, shared by all training sets."""
        scalings = {
            layer: Scaling(found.offset, np.sqrt(self.layer_weights[layer]) * found.scale)
            for layer, found in fit_scalings(self.read, [*self.layer_weights]).items()
        }
        width = sum(len(scaling.scale) for scaling in scalings.values())
        sketch = make_sketch(width, SKETCH_WIDTH, np.random.default_rng(self.rng_seed))
        return Embedding(self.read, scalings, sketch)

    def trials(self, problem: SelectionProblem) -> Iterator[list[Trial]]:
        """One eigendecomposition a training set serves every penalty."""
        made = self.embedding()
        whole = _add_up(made, problem, np.arange(len(problem.labels)))
        for keep, fold in problem.training_sets():
            one = _TrainingSet(made, problem, keep, whole.minus(_add_up(made, problem, fold)))
            yield one.trials(self.penalties, fold)

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Fit on all rows and undo the sketch."""
        made, everything = self.embedding(), np.arange(len(problem.labels))
        one = _TrainingSet(made, problem, everything, _add_up(made, problem, everything))
        (scores,), ((weights, bias),) = one.fit([penalty])
        by_layer, shift = made.over_layers(weights)
        return Refit(scores.astype(float), by_layer, bias + shift)


def _add_up(made: Embedding, problem: SelectionProblem, rows: Rows) -> primal_ridge.Sums:
    """Sums over some rows; of several processes each adds up its share."""
    world = here()
    rows = np.array_split(rows, world.size)[world.rank]

    def blocks() -> Iterator[tuple[Features, Array]]:
        start = 0
        for features in made.stretches(rows):
            stop = start + len(features)
            yield features, problem.targets_of(rows[start:stop])
            start = stop

    own = primal_ridge.add_up(blocks(), made.sketch.width, problem.n_classes)
    return own if world.size == 1 else own.over(world.summed)


@dataclass(frozen=True, slots=True)
class _TrainingSet:
    """Rows that are learnt from, with their sums, which the fit uses up."""

    made: Embedding
    problem: SelectionProblem
    keep: Rows
    sums: primal_ridge.Sums

    def trials(self, penalties: Sequence[float], fold: Rows) -> list[Trial]:
        """Each penalty judged by the rows kept; what it says of the fold."""
        inside, fits = self.fit(penalties)
        outside = [np.empty((len(fold), self.problem.n_classes)) for _ in penalties]
        start = 0
        for features in self.made.stretches(fold):
            stop = start + len(features)
            for scores, (weights, bias) in zip(outside, fits, strict=True):
                scores[start:stop] = features @ weights + bias
            start = stop
        found = []
        for penalty, within, beyond in zip(penalties, inside, outside, strict=True):
            found.append(judge(self.problem, self.keep, penalty, within.astype(float), beyond))
        return found

    def fit(self, penalties: Sequence[float]) -> tuple[list[Features], list[tuple[Array, Array]]]:
        """Per penalty the scores (m, K) of each kept row without its block, and (W, b).

        Scores lie between 0 and 1: single precision is enough, as there are many of them.
        """
        group_rows = groups_within(self.problem.group_rows, self.keep, len(self.problem.labels))
        large = [rows for rows in group_rows if len(rows) >= LARGE]
        shape = len(self.keep), self.problem.n_classes
        inside = [np.empty(shape, np.float32) for _ in penalties]
        for rows in large:
            self._without(rows, penalties, inside)
        space = primal_ridge.spectrum(self.sums)
        for rows, within in stretches([rows for rows in group_rows if len(rows) < LARGE]):
            rotated = space.rotate(self.made.rows(self.keep[rows]))
            targets = self.problem.targets_of(self.keep[rows])
            for scores, penalty in zip(inside, penalties, strict=True):
                scores[rows] = primal_ridge.left_out(space, rotated, targets, penalty, within)
        return inside, [primal_ridge.solve(space, penalty) for penalty in penalties]

    def _without(self, rows: Rows, penalties: Sequence[float], inside: list[Features]) -> None:
        """Scores of a large block, from ridges on all other rows."""
        others = self.sums.minus(_add_up(self.made, self.problem, self.keep[rows]))
        for scores, penalty in zip(inside, penalties, strict=True):
            weights, bias = primal_ridge.solve_once(others, penalty)
            found = [part @ weights + bias for part in self.made.stretches(self.keep[rows])]
            scores[rows] = np.concatenate(found)


def stretches(group_rows: Sequence[Rows]) -> Iterator[tuple[Rows, list[Rows]]]:
    """Whole groups together, up to `STRETCH` rows: the rows, and each group's places there.

    >>> pairs = [np.array([0, 3]), np.array([1]), np.array([2])]
    >>> [(rows.tolist(), [g.tolist() for g in within]) for rows, within in stretches(pairs)]
    [([0, 3, 1, 2], [[0, 1], [2], [3]])]
    """
    held: list[Rows] = []
    size = 0
    for rows in group_rows:
        if held and size + len(rows) > STRETCH:
            yield _together(held)
            held, size = [], 0
        held.append(rows)
        size += len(rows)
    if held:
        yield _together(held)


def _together(group_rows: list[Rows]) -> tuple[Rows, list[Rows]]:
    ends = np.cumsum([len(rows) for rows in group_rows])
    return np.concatenate(group_rows), np.split(np.arange(ends[-1]), ends[:-1])
