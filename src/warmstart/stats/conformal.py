"""How far answers may be off: a quantile of the errors of rows that were left out."""

from __future__ import annotations

import math

import numpy as np

from warmstart.stats.intervals import Blocks, Values, kish

PROMISED = 0.9  # share of new examples whose truth lies in the interval


def margin(errors: Values, blocks: Blocks, promised: float = PROMISED) -> float | None:
    """The ⌈promised (n + 1)⌉-th smallest absolute error; None where n is too small for one.

    Dependent rows count as Kish's effective size of their blocks. Shapes: errors, blocks (n,).
    Source: Barber et al. 2021, "Predictive inference with the jackknife+", eq. 1.1.

    >>> margin(np.arange(1.0, 20.0), np.arange(19)), margin(np.ones(8), np.arange(8))
    (18.0, None)
    """
    n, size = len(errors), kish(blocks)
    share = promised * (size + 1) / size
    if share > 1:
        return None
    return float(np.sort(errors)[max(math.ceil(share * n - 1e-9), 1) - 1])
