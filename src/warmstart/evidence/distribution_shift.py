"""Were the training part and the test part drawn from one source?

A classifier is asked to tell the two parts apart by their features; if they are alike it
can only guess. Test labels are not looked at. Source: Lopez-Paz & Oquab 2017, "Revisiting
Classifier Two-Sample Tests", with a closed-form classifier and permutations.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from warmstart.evidence.probe_hits import PENALTIES
from warmstart.nouns import IMAGES, Nouns
from warmstart.records.data import Finding
from warmstart.solve import ridge
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Rows
from warmstart.stats.permutation import PermutationTest, permutation_test

MOST = 500  # rows of each part that are compared
LEAST = 10  # rows of each part below which nothing is said
PERMUTATIONS = 999
LARGE = 0.75  # accuracy of telling the parts apart from which a shift matters
CERTAIN = 0.005  # p-value of the permutations; they stop here when none came near
CLEAR = 3.1  # and standard deviations above what they reach, which is p = .001


class Drawable(Protocol):
    """Features of many rows, of which some are asked for; an array is one."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __getitem__(self, rows: Rows, /) -> Features:
        """Shapes: (m,) to (m, d)."""
        ...


def drift(
    train: Drawable, test: Drawable, rng: np.random.Generator, nouns: Nouns = IMAGES
) -> Finding | None:
    """A finding where the two parts can be told apart with ease, else None.

    Shapes: train (n, d), test (m, d), one tap. Blocks (several pictures of one object in one
    part only) make the parts a little easier to tell apart than their pictures are.
    """
    found = two_samples(train, test, rng)
    if found is None or found.p > CERTAIN or found.accuracy < LARGE:
        return None
    null = found.null_accuracies
    if found.accuracy < null.mean() + CLEAR * null.std():
        return None
    return Finding(
        kind="distribution-shift",
        sentence=(
            f"The test {nouns.many} differ from the training {nouns.many} as a whole: a simple "
            "test "
            f"tells the two parts apart {100 * found.accuracy:.0f} % of the time, where guessing "
            "is "
            f"right 50 %. The test then says how the model does on {nouns.many} of another kind; "
            "for "
            "a fair figure, mix the two parts and divide them anew, and for the other kind add "
            f"training {nouns.many} of it."
        ),
    )


def two_samples(
    train: Drawable, test: Drawable, rng: np.random.Generator
) -> PermutationTest | None:
    """How well the parts can be told apart, with equally many rows of each; None if too few."""
    size = min(len(train), len(test), MOST)
    if size < LEAST:
        return None
    both = np.concatenate([train[_draw(train, size, rng)], test[_draw(test, size, rng)]])
    part = np.repeat(np.arange(2), size)
    kernel = mixed_kernels([("one", both)], {"one": {"one": 1.0}})["one"]
    inverses = [ridge.inverse(kernel, penalty) for penalty in PENALTIES]
    singles = [np.array([row]) for row in range(2 * size)]
    return permutation_test(inverses, part, singles, rng, PERMUTATIONS)


def _draw(features: Drawable, size: int, rng: np.random.Generator) -> Rows:
    return np.sort(rng.choice(len(features), size=size, replace=False))
