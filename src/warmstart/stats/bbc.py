"""What a model is worth that was chosen among several by the same rows that judge it.

Bootstrap bias corrected cross-validation: Tsamardinos, Greasidou & Borboudakis 2018, "Bootstrapping
the out-of-sample predictions for efficient and accurate cross-validation", §3. The choice is made
again on rows drawn with replacement, and judged by those that were not drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from warmstart.stats.intervals import Blocks, Values

Rows = NDArray[np.intp]
Choose = Callable[[Rows], int]  # from rows, some of them several times, to the model chosen

DRAWS = 200


def chosen_hits(
    hits: NDArray[np.float64],
    choose: Choose,
    blocks: Blocks,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Values:
    """How often each row is answered rightly by models that were chosen without it.

    Shapes: hits (M, n) of 0 and 1 for each model, blocks (n,); returns (n,) between 0 and 1,
    whose mean is the corrected estimate. Blocks are drawn whole. A row that every draw held
    has what the model chosen on all rows says.

    >>> rng, coins = np.random.default_rng(0), np.random.default_rng(1)
    >>> hits = (coins.random((50, 60)) < 0.5).astype(float)  # 50 models that guess
    >>> best = lambda rows: int(hits[:, rows].mean(axis=1).argmax())
    >>> honest = chosen_hits(hits, best, np.arange(60), rng).mean()
    >>> bool(hits.mean(axis=1).max() > 0.6 and honest < 0.55)
    True
    """
    _, index = np.unique(blocks, return_inverse=True)
    n_blocks = int(index.max()) + 1
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    total, count = np.zeros(hits.shape[1]), np.zeros(hits.shape[1])
    for _ in range(draws):
        drawn = rng.integers(n_blocks, size=n_blocks)
        best = choose(np.concatenate([members[block] for block in drawn]))
        out = ~np.isin(index, drawn)
        total[out] += hits[best, out]
        count[out] += 1
    plain = hits[choose(np.arange(hits.shape[1]))]
    found: Values = np.where(count > 0, total / np.maximum(count, 1), plain)
    return found
