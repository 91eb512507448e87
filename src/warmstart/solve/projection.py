"""Sparse random projection: many features to few, inner products kept on average.

Every input feature is added, with a random sign, to one output feature (a count
sketch). It costs one pass, needs two small arrays to repeat, and E<Sx, Sy> = <x, y>
with variance <= 2 ||x||^2 ||y||^2 / width. Source: Charikar et al. 2002; for regression
Clarkson & Woodruff 2013, §2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEW = 8  # features a target, at most, that are added layer by layer


@dataclass(frozen=True, slots=True)
class Sketch:
    """Where each feature goes. Shapes: target (d,) in 0..width-1, sign (d,) of -1 or 1."""

    target: NDArray[np.int64]
    sign: NDArray[np.float32]
    width: int

    def apply(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Shapes: features (n, d); returns (n, width) float32."""
        order = np.argsort(self.target, kind="stable")
        counts = np.bincount(self.target, minlength=self.width)
        if counts.max(initial=0) <= _FEW:
            return self._in_layers(features, order, counts)
        starts = np.cumsum(counts) - counts
        signed = (features[:, order] * self.sign[order]).astype(np.float32, copy=False)
        padded = np.concatenate([signed, np.zeros((len(signed), 1), np.float32)], axis=1)
        sums = np.add.reduceat(padded, starts, axis=1)
        sums[:, counts == 0] = 0.0  # reduceat gives an element, not nothing, for an empty run
        return sums

    def _in_layers(
        self, features: NDArray[np.floating], order: NDArray[np.intp], counts: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """The first feature of each target, then the second, …: summing runs takes five times.

        Added as `reduceat` does it, to the last bit: the first to the sum of all others.
        """
        starts = np.cumsum(counts) - counts
        sums = np.zeros((len(features), self.width), np.float32)
        for place in (*range(1, counts.max(initial=0)), 0):
            filled = np.flatnonzero(counts > place)
            columns = order[starts[filled] + place]
            layer = np.take(features, columns, axis=1) * self.sign[columns]
            if len(filled) == self.width:
                sums += layer.astype(np.float32, copy=False)
            else:
                sums[:, filled] += layer.astype(np.float32, copy=False)
        return sums


def make_sketch(n_features: int, width: int, rng: np.random.Generator) -> Sketch:
    """Draw a sketch. `width` at or above `n_features` keeps every feature as it is.

    >>> make_sketch(3, 8, np.random.default_rng(0)).apply(np.ones((1, 3))).tolist()
    [[1.0, 1.0, 1.0]]
    """
    if width >= n_features:
        return Sketch(np.arange(n_features), np.ones(n_features, np.float32), n_features)
    target = rng.permutation(np.arange(n_features) % width)
    sign = rng.choice(np.array([-1.0, 1.0], np.float32), size=n_features)
    return Sketch(target, sign, width)
