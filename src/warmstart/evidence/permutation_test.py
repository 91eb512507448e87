"""Can the labels be learnt from this start at all?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from warmstart.nouns import IMAGES, Nouns
from warmstart.records.summary import Evidence
from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.permutation import PermutationTest, permutation_test
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import signal_text

PENALTIES = (0.03, 0.3, 3.0, 30.0)  # label-free grid; the permutations take the same maximum
LEAST_MOVED = 0.25  # share of free label moves below which the test cannot be made
POWER = 0.84  # standard normal quantile of 80 %


def permutation_evidence(
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    permutations: int,
    rng: np.random.Generator,
    target: Target = CLASSIFICATION,
) -> Evidence:
    """Permutation test over the last tap's and the mean kernel.

    Shapes: each kernel (n, n), labels (n,), groups partition the rows. The value is the
    leave-one-out accuracy, low and high what shuffled labels reach (2.5 to 97.5 %).
    """
    test = _permuted(kernels, labels, group_rows, permutations, rng, target)
    low, high = np.quantile(test.null_accuracies, [0.025, 0.975])
    sizes = np.array([len(rows) for rows in group_rows], dtype=float)
    # Blocks that leave next to nothing to permute leave next to nothing to find.
    is_bound = test.moved < LEAST_MOVED
    effect = (
        1.0 if is_bound else detectable(test, float(sizes.sum() ** 2 / (sizes**2).sum()), target)
    )
    return Evidence(
        name="permutation_test",
        value=test.accuracy,
        low=float(low),
        high=float(high),
        n=len(labels),
        meaning=signal_text(target.words, test.accuracy, float(low), float(high)),
        details={
            "p": test.p,
            "mde": effect,
            "null_mean": float(test.null_accuracies.mean()),
            "permutations": test.permutations,
            "moved": test.moved,
        },
    )


def with_plain(
    found: Evidence,
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    permutations: int,
    rng: np.random.Generator,
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGES,
) -> Evidence:
    """The same evidence, with what the same rows tell without any network.

    A start that knows nothing hides labels that plain pixels tell. Shapes as of `permutation_test`; the
    details gain `plain`, a score, and `plain_p`.
    """
    test = _permuted(kernels, labels, group_rows, permutations, rng, target)
    beside = target.words.alone.format(value=100 * test.accuracy, plain=nouns.plain)
    return replace(
        found,
        meaning=f"{found.meaning} {beside}",
        details={**found.details, "plain": test.accuracy, "plain_p": test.p},
    )


def _permuted(
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    permutations: int,
    rng: np.random.Generator,
    target: Target,
) -> PermutationTest:
    inverses = [ridge.inverse(kernel, penalty) for kernel in kernels for penalty in PENALTIES]
    return permutation_test(
        inverses,
        target.identities(labels),
        group_rows,
        rng,
        permutations,
        lambda operators, draws: target.statistics(operators, draws, labels),
    )


def detectable(test: PermutationTest, n_effective: float, target: Target = CLASSIFICATION) -> float:
    """Smallest effect on accuracy that would have been found with 80 % power.

    q99(null) - mean(null) + 0.84 standard errors of the accuracy (RECIPE §4);
    `n_effective` is Kish's size of the blocks, the fewest that the rows can be worth.
    """
    null = test.null_accuracies
    spread = float(np.quantile(null, 0.99) - null.mean())
    return spread + POWER * target.score_error(test.accuracy, n_effective)
