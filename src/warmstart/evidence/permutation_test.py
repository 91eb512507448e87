"""Can the labels be learnt from this base model's features at all?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from warmstart.modalities.image import IMAGE
from warmstart.nouns import Nouns
from warmstart.records.summary import Evidence
from warmstart.solve import ridge
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.permutation import PermutationTest, permutation_test
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import signal_text

PENALTIES = (0.03, 0.3, 3.0, 30.0)  # label-free grid; the permutations take the same maximum
LEAST_MOVED = 0.25  # share of labels free to move, below which the test has no power
POWER = 0.84  # standard normal quantile of 80 %


def permutation_evidence(
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    permutations: int,
    rng: np.random.Generator,
    target: Target = CLASSIFICATION,
) -> Evidence:
    """Permutation test over the kernels of the last feature layer and of all.

    Shapes: each kernel (n, n), labels (n,), groups partition the rows. The value is the
    leave-one-out accuracy; low and high bound the accuracy on shuffled labels (2.5 to 97.5 %).
    """
    test = _test(kernels, labels, group_rows, permutations, rng, target)
    low, high = np.quantile(test.null_accuracies, [0.025, 0.975])
    sizes = np.array([len(rows) for rows in group_rows], dtype=float)
    # Groups that leave next to nothing to permute leave next to nothing to detect.
    effect = 1.0
    if test.moved >= LEAST_MOVED:
        effect = detectable(test, float(sizes.sum() ** 2 / (sizes**2).sum()), target)
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
    evidence: Evidence,
    kernels: Sequence[Array],
    labels: Truth,
    group_rows: Sequence[Rows],
    permutations: int,
    rng: np.random.Generator,
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGE.nouns,
) -> Evidence:
    """Add the test on raw inputs to `evidence`: `plain`, a score, and `plain_p` in the details.

    Labels that raw pixels predict can be hidden by an unsuitable base model. Shapes as above.
    """
    test = _test(kernels, labels, group_rows, permutations, rng, target)
    score = f"the {target.words.score} is {100 * test.accuracy:.0f} %"
    sentence = f"From {nouns.plain} {score}."
    return replace(
        evidence,
        meaning=f"{evidence.meaning} {sentence}",
        details={**evidence.details, "plain": test.accuracy, "plain_p": test.p},
    )


def _test(
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
    """Smallest effect on accuracy that the test detects with 80 % power.

    q99(null) - mean(null) + 0.84 standard errors of the accuracy (RECIPE §4);
    `n_effective` is Kish's effective sample size of the groups, a lower bound.
    """
    null = test.null_accuracies
    spread = float(np.quantile(null, 0.99) - null.mean())
    return spread + POWER * target.score_error(test.accuracy, n_effective)
