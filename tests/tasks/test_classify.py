"""One line a class, against the slow definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from warmstart.tasks.classify import per_class

NAMES = ("ant", "bee", "cat", "dog")
ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(ROWS)
def test_each_figure_is_what_it_says(rows):
    predicted, labels = (np.array(side) for side in zip(*rows, strict=True))
    found = per_class(predicted, labels, np.arange(len(rows)), NAMES)
    assert [row.label for row in found] == [NAMES[k] for k in sorted(set(labels.tolist()))]
    for row in found:
        own = [p for p, truth in rows if NAMES[truth] == row.label]
        said = [truth for p, truth in rows if NAMES[p] == row.label]
        wrong = [NAMES[p] for p in own if NAMES[p] != row.label]
        assert row.n == len(own)
        assert np.isclose(row.recall, 1 - len(wrong) / len(own))
        assert row.low <= row.recall <= row.high
        assert row.answers == len(said)
        right = sum(NAMES[truth] == row.label for truth in said)
        assert row.precision == (right / len(said) if said else None)
        assert row.n_confused == (max(map(wrong.count, wrong)) if wrong else 0)
        assert (row.confused_with in wrong) if wrong else row.confused_with is None


def test_copies_make_the_interval_wider():
    predicted, labels = np.array([0, 1] * 10), np.zeros(20, int)
    apart = per_class(predicted, labels, np.arange(20), NAMES)[0]
    bound = per_class(predicted, labels, np.arange(20) // 4, NAMES)[0]
    assert bound.high - bound.low >= apart.high - apart.low
    alone = per_class(predicted, labels, np.zeros(20, int), NAMES)[0]
    assert (alone.low, alone.high) == (0.0, 1.0)
