"""A head that continues an older one: a ridge shrinks towards its scores for classes of one name.

It beats the last layer alone where old and new images differ, and ties where they are alike
(bench/results/prior.json).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from warmstart.data.dataset import Collection
from warmstart.records.data import Finding
from warmstart.records.network import FeatureLayer
from warmstart.solve import ridge_with_prior
from warmstart.solve.ridge import Array
from warmstart.training.head_families import KernelRidge, ReadFeatures, Refit
from warmstart.training.selection import SelectionProblem

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
