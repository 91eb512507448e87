"""Where a row of parts is cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.errors import PlanError
from warmstart.network.piece import balanced


@settings(deadline=None)
@given(
    costs=st.lists(st.floats(0.01, 10), min_size=1, max_size=7), share=st.floats(0, 1)
)  # fmt: skip
def test_no_other_cut_has_a_cheaper_dearest_run(costs, share):
    n = 1 + int(share * (len(costs) - 1))
    runs = balanced(costs, n)
    assert [place for run in runs for place in run] == list(range(len(costs)))
    assert len(runs) == n
    assert all(runs)
    least = min(
        max(sum(costs[a:b]) for a, b in pairwise((0, *cuts, len(costs))))
        for cuts in combinations(range(1, len(costs)), n - 1)
    )
    assert max(sum(costs[p] for p in run) for run in runs) == pytest.approx(least)


def test_more_stages_than_parts_are_refused():
    says = r"^a pipeline of 3 stages .* there are 2: start at most 2 processes\.$"
    with pytest.raises(PlanError, match=says):
        balanced([1.0, 2.0], 3)
