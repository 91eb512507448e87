"""Do the training set and the test set come from one distribution?

A classifier two-sample test: a classifier that separates the two sets by their features better
than chance shows a distribution shift. Test labels are not used. Source: Lopez-Paz & Oquab 2017,
"Revisiting Classifier Two-Sample Tests", with a closed-form classifier and permutations.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from warmstart.evidence.probe_hits import PENALTIES
from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.data import Finding
from warmstart.solve import ridge
from warmstart.solve.kernels import Features, mixed_kernels
from warmstart.solve.ridge import Rows
from warmstart.stats.permutation import PermutationTest, permutation_test

MOST = 500  # rows of each set that are compared
LEAST = 10  # rows of each set that the test needs
PERMUTATIONS = 999
LARGE = 0.75  # accuracy from which a shift matters
CERTAIN = 0.005  # p-value of the permutations; they stop here when none came near
CLEAR = 3.1  # and standard deviations above the null distribution, which is p = .001


class FeatureRows(Protocol):
    """Features of n rows, loaded when indexed by rows (m,); an array (n, d) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Features: ...


def detect_shift(
    train: FeatureRows, test: FeatureRows, rng: np.random.Generator, nouns: Nouns = IMAGE.nouns
) -> Finding | None:
    """A finding where the two sets are easily separated, else None.

    Shapes: train (n, d), test (m, d), of one feature layer. Groups (several pictures of one object,
    all in one set) make the sets slightly easier to separate than their pictures are.
    """
    test_result = two_samples(train, test, rng)
    if test_result is None or test_result.p > CERTAIN or test_result.accuracy < LARGE:
        return None
    null = test_result.null_accuracies
    if test_result.accuracy < null.mean() + CLEAR * null.std():
        return None
    return Finding(
        kind="distribution-shift",
        sentence=(
            f"Distribution shift: a simple classifier tells test {nouns.many} from training "
            f"{nouns.many} {100 * test_result.accuracy:.0f} % of the time, where guessing is right "
            f"50 %. The test set then measures the model on {nouns.many} of another kind; for a "
            "fair figure, mix the two sets and split them again, and for the other kind add "
            f"training {nouns.many} of it."
        ),
    )


def two_samples(
    train: FeatureRows, test: FeatureRows, rng: np.random.Generator
) -> PermutationTest | None:
    """The two-sample test on equally many rows of each set; None if there are too few."""
    size = min(len(train), len(test), MOST)
    if size < LEAST:
        return None
    samples = [
        rows[np.sort(rng.choice(len(rows), size=size, replace=False))] for rows in (train, test)
    ]
    kernel = mixed_kernels([("one", np.concatenate(samples))], {"one": {"one": 1.0}})["one"]
    inverses = [ridge.inverse(kernel, penalty) for penalty in PENALTIES]
    singles = [np.array([row]) for row in range(2 * size)]
    return permutation_test(inverses, np.repeat(np.arange(2), size), singles, rng, PERMUTATIONS)
