"""Selective prediction: the lowest confidence above which the error stays under a bound.

Source: Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks" (algorithm
SGR), a union bound over about log2 n thresholds: evenly spaced coverages, as the bound is not
monotone in the coverage, which SGR's binary search assumes.
"""

from __future__ import annotations

import math

import numpy as np

from warmstart.stats.intervals import Groups, Values, kish

PROMISED = 0.9  # share of new examples whose truth lies in the interval
LEAST_PROMISE = 0.02  # an error bound below 2 % needs more examples than small data has


def margin(errors: Values, groups: Groups, promised: float = PROMISED) -> float | None:
    """The ⌈promised (n + 1)⌉-th smallest absolute error; None where n is too small for one.

    Dependent rows count as Kish's effective size of their groups. Shapes: errors, groups (n,).
    Source: Barber et al. 2021, "Predictive inference with the jackknife+", eq. 1.1.

    >>> margin(np.arange(1.0, 20.0), np.arange(19)), margin(np.ones(8), np.arange(8))
    (18.0, None)
    """
    n, size = len(errors), kish(groups)
    share = promised * (size + 1) / size
    if share > 1:
        return None
    return float(np.sort(errors)[max(math.ceil(share * n - 1e-9), 1) - 1])


def upper_bound(errors: float, n: float, delta: float) -> float:
    """One-sided Clopper-Pearson bound of an error rate; `errors` and `n` may be fractional.

    >>> round(upper_bound(0, 59, 0.05), 3)
    0.05
    """
    from scipy.special import betaincinv  # here: help texts name tasks and wait for no scipy

    if n <= 0 or errors >= n:
        return 1.0
    return float(betaincinv(errors + 1, n - errors, 1 - delta))


def error_bound(error: float) -> float:
    """The error rate promised for confident answers: half the overall error, at least 2 %.

    >>> error_bound(0.1), error_bound(0.01)
    (0.05, 0.02)
    """
    return max(LEAST_PROMISE, error / 2)


def confident_threshold(confidence: Values, correct: Values, n_effective: float) -> float | None:
    """The lowest threshold on confidence that keeps the promise with 95 % certainty, if any.

    Shapes: confidence (n,) of the predicted class, correct (n,) of 0 and 1, both out of fold.
    `n_effective` <= n shrinks the counts of dependent examples.

    >>> confident_threshold(np.full(8, 0.9), np.ones(8), 8) is None
    True
    """
    n = len(correct)
    order = np.argsort(-confidence, kind="stable")
    falling, wrong = confidence[order], np.cumsum(1 - correct[order])
    target, shrink = error_bound(1 - float(correct.mean())), n_effective / n
    tries = max(1, math.ceil(math.log2(n)))
    for coverage in np.linspace(1, 1 / tries, tries):
        least = falling[max(round(coverage * n), 1) - 1]
        # Examples of equal confidence are confident together or not at all.
        count = int(np.searchsorted(-falling, -least, "right"))
        if upper_bound(wrong[count - 1] * shrink, count * shrink, 0.05 / tries) <= target:
            return float(least)
    return None
