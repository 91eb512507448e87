"""Average precision of many draws at once."""

import numpy as np
from sklearn.metrics import average_precision_score

from warmstart.stats.metrics import precision_shares, quick_precisions


def test_draws_are_scored_as_one_by_one():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 5, 3)).astype(np.float32)
    truth = (rng.random((40, 5, 3)) < 0.3).astype(np.float32)
    truth[:, :, 0][:, 2] = 0  # a label that nobody has in one draw counts nothing
    found = quick_precisions(scores, truth)
    for draw in range(5):
        seen = truth[:, draw].any(axis=0)
        wanted = average_precision_score(truth[:, draw][:, seen], scores[:, draw][:, seen])
        assert abs(found[draw] - wanted) < 1e-6
        assert abs(precision_shares(scores[:, draw], truth[:, draw]).mean() - wanted) < 1e-6
