"""A head that continues an older one: classes with the same name begin where that one ended.

Names identify a class, never its position: the older head's scores for a class with the same
name serve as the mean that a ridge shrinks towards; every other class is learnt as if there were
no older head.

Measured (bench/results/prior.json): at every depth, in place of the plain ridge, it beats the
last layer alone where old and new images differ, and ties where they are alike. The factor of the
old head is fitted: fixed at 1, a head of sketches cost photographs of the same things 7 points
(.910 to .838, 30 images), and gained nothing elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from warmstart.data.dataset import Collection
from warmstart.records.data import Finding
from warmstart.records.network import FeatureLayer
from warmstart.solve import ridge_with_prior
from warmstart.solve.ridge import Array
from warmstart.training.head_families import LayerWeights, ReadFeatures, Refit, over_layers
from warmstart.training.selection import SelectionProblem, Trials, judge

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
    old_weight, old_bias = (values.astype(np.float64) for values in head)
    weight, bias = np.zeros((len(classes), old_weight.shape[1])), np.zeros(len(classes))
    for index, name in enumerate(classes):
        if name in row:
            weight[index], bias[index] = old_weight[row[name]], old_bias[row[name]]
    columns = np.split(weight, np.cumsum(widths)[:-1], axis=1)
    weights = {layer: part.T for layer, part in zip(feature_layers, columns, strict=True)}
    return Prior(weights, bias, has_class)


@dataclass(frozen=True, slots=True)
class PriorRidge:
    """Ridge on a mixed kernel, shrunk towards a multiple of an older head; kernel (n, n).

    The multiple is fitted with everything else, inside each training set and for each row
    without its group: `solve.ridge_with_prior`.
    """

    kernel: Array
    layer_weights: LayerWeights
    read: ReadFeatures
    penalties: Sequence[float]
    prior: Prior

    def trials(self, problem: SelectionProblem) -> Trials:
        """One inverse per penalty serves every fold."""
        sets, scores = list(problem.training_sets()), self.prior.scores(self.read)
        trials: Trials = [[] for _ in sets]
        for penalty in self.penalties:
            fit = ridge_with_prior.fit(self.kernel, problem.targets, scores, penalty)
            for number, (keep, fold) in enumerate(sets):
                if len(fold):
                    keep, inside, outside = ridge_with_prior.nested(fit, fold, problem.group_rows)
                else:
                    inside, outside = ridge_with_prior.left_out(fit, problem.group_rows), scores[:0]
                trials[number].append(judge(problem, keep, penalty, inside, outside))
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """The weights cover the older head's feature layers and the candidate's own."""
        scores = self.prior.scores(self.read)
        fit = ridge_with_prior.fit(self.kernel, problem.targets, scores, penalty)
        factor, coefficients = ridge_with_prior.solve(fit)
        weights, shift = over_layers(coefficients, self.layer_weights, self.read)
        bias = (
            ridge_with_prior.intercept(self.kernel, fit, penalty) + shift + factor * self.prior.bias
        )
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
