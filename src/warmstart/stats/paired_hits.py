"""The difference of two accuracies on the same examples, where few of them differ."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr

from warmstart.stats.intervals import Blocks, Values, kish, standard_error
from warmstart.stats.paired import Difference, mean_interval


def hits_difference(a: Values, b: Values, blocks: Blocks, inflation: float = 1.0) -> Difference:
    """Accuracy of a minus that of b with its 95 % t interval, cluster-robust, and a p to match.

    To what was seen one example is added that only a, and one that only b has right. So two
    models that never differed on n examples have an interval of about ±3/n, where a bootstrap
    over examples says ±0; a few lucky hits make no winner. The interval leaves 0 out exactly
    where p < 0.05. `inflation` is the variance of what is estimated over that of independent
    draws. Shapes: a, b and blocks (n,).
    Source: Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data"; here with blocks and a t quantile for few of them.

    >>> same = hits_difference(np.ones(100), np.ones(100), np.arange(100))
    >>> same.value, round(same.low, 3), round(same.high, 3), same.p
    (0.0, -0.028, 0.028, 1.0)
    """
    value = float((a - b).mean())
    gap = np.append(a - b, [1.0, -1.0])
    apart = np.append(blocks, blocks.max() + np.array([1, 2]))
    degrees, error = kish(apart) - 1, standard_error(gap, apart) * float(np.sqrt(inflation))
    middle, low, high = mean_interval(gap, apart)
    if degrees < 1:
        return Difference(value, -1.0, 1.0, 1.0)
    low, high = (middle + float(np.sqrt(inflation)) * (end - middle) for end in (low, high))
    p = 2 * float(stdtr(degrees, -abs(middle) / error))
    return Difference(value, max(low, -1.0), min(high, 1.0), p)
