"""A head that goes on from an older one: equally named classes begin where that one ended.

Names are the identity of a class, never its position: what an older head says of a class
that is called the same here serves as the mean that a ridge is drawn towards; every other
class is learnt as if there had been no older head.

Measured (bench/results/prior.json): at every depth in place of the plain ridge it beats the
last tap alone where old and new images differ, and ties where they are alike. The factor
before the old head is fitted: held at 1, a head of sketches cost photographs of the same
things 7 points (.910 to .838, 30 images), and gained nothing elsewhere.
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

SUFFIX = "+prior"  # of a profile's name: the same profile, begun from an older head


@dataclass(frozen=True, slots=True)
class Prior:
    """An older head in the order of the new classes.

    Shapes: weights (d_t, K) per tap and bias (K,), for scores sum_t x_t W_t + b on unscaled
    features, of any scale; a class that the older head does not know has zeros. `known`
    tells which classes it knows, (K,).
    """

    weights: dict[FeatureLayer, Array]
    bias: Array
    known: tuple[bool, ...]

    def scores(self, read: ReadFeatures) -> Array:
        """What the older head says. Shapes: read gives (n, d_t) per tap; returns (n, K)."""
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

    Shapes: head is weight (K', D) with D the sum of the taps' `widths`, and bias (K',), in
    the order of `names`.

    >>> layer = FeatureLayer(block=1, pool="neck")
    >>> head = np.array([[1.0], [2.0]]), np.array([0.1, 0.2])
    >>> prior_of([layer], [1], head, ["cat", "dog"], ["ant", "dog"]).bias.tolist()
    [0.0, 0.2]
    >>> prior_of([layer], [1], head, ["cat", "dog"], ["ant", "bee"]) is None
    True
    """
    row = {name: number for number, name in enumerate(names)}
    known = tuple(name in row for name in classes)
    if not any(known):
        return None
    weight, bias = (values.astype(np.float64) for values in head)
    ours = np.zeros((len(classes), weight.shape[1])), np.zeros(len(classes))
    for index, name in enumerate(classes):
        if name in row:
            ours[0][index], ours[1][index] = weight[row[name]], bias[row[name]]
    pieces = np.split(ours[0], np.cumsum(widths)[:-1], axis=1)
    return Prior(
        {layer: piece.T for layer, piece in zip(feature_layers, pieces, strict=True)},
        ours[1],
        known,
    )


@dataclass(frozen=True, slots=True)
class PriorRidge:
    """Ridge on a mixed kernel, drawn towards a multiple of an older head; kernel (n, n).

    The multiple is fitted with everything else, inside each training set and for each row
    without its block: `solve.ridge_with_prior`.
    """

    kernel: Array
    layer_weights: LayerWeights
    read: ReadFeatures
    penalties: Sequence[float]
    prior: Prior

    def trials(self, problem: SelectionProblem) -> Trials:
        """One inverse a penalty serves every fold."""
        sets, has_class = list(problem.training_sets()), self.prior.scores(self.read)
        trials: Trials = [[] for _ in sets]
        for penalty in self.penalties:
            fit = ridge_with_prior.fit(self.kernel, problem.targets, known, penalty)
            for number, (keep, fold) in enumerate(sets):
                if len(fold):
                    keep, inside, outside = ridge_with_prior.nested(fit, fold, problem.group_rows)
                else:
                    inside, outside = ridge_with_prior.left_out(fit, problem.group_rows), known[:0]
                trials[number].append(judge(problem, keep, penalty, inside, outside))
        return trials

    def refit(self, problem: SelectionProblem, penalty: float) -> Refit:
        """Fit on all rows; the weights stand over the older head's taps and the profile's."""
        known = self.prior.scores(self.read)
        fit = ridge_with_prior.fit(self.kernel, problem.targets, known, penalty)
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
    """What a run passes on to the one that starts from it, and a leak that comes with it."""

    prior: Prior | None = None
    leak: Finding | None = None

    def names(self, probe_layers: Sequence[str]) -> tuple[str, ...]:
        """Names of the depth profiles that heads may have, for the plan."""
        return tuple(f"{name}{SUFFIX}" if self.prior else name for name in probe_layers)

    def told(self, collection: Collection) -> Collection:
        """The collection with the leak among its problems."""
        record = collection.record
        if self.leak is None:
            return collection
        return replace(collection, record=replace(record, problems=(*record.problems, self.leak)))


NOTHING = Inheritance()
