"""Prefetched results come in order, no further ahead than allowed, and stop on request."""

from __future__ import annotations

import gc
import threading
from itertools import count, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.features.batches import prefetch

PATIENCE_S = 30  # for threads that have nothing else to do; never reached where all is well


@settings(max_examples=30)
@given(n=st.integers(0, 20), workers=st.integers(0, 4), depth=st.integers(0, 5))
def test_results_come_in_order(n, workers, depth):
    """Items are consumed here; results are made by workers, or here if there are none."""
    takers, makers, here = set(), set(), threading.current_thread()

    def items():
        for item in range(n):
            takers.add(threading.current_thread())
            yield item

    def make(item):
        makers.add(threading.current_thread())
        return item * item

    assert list(prefetch(make, items(), workers, depth)) == [item * item for item in range(n)]
    assert takers <= {here}
    assert (here not in makers and len(makers) <= workers) if workers else makers <= {here}


def test_order_holds_where_the_first_takes_longest():
    second_done = threading.Event()

    def make(item):
        if item == 0:
            assert second_done.wait(PATIENCE_S)
        if item == 1:
            second_done.set()
        return item

    assert list(prefetch(make, range(4), workers=2)) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_never_further_ahead_than_allowed_and_always_that_far(workers, depth):
    """Of an endless supply, while the consumer is at one item."""
    selected, output, can_go = [], [], threading.Condition()

    def items():
        for item in count():
            selected.append(item)
            yield item

    def make(item):
        with can_go:
            output.append(item)
            can_go.notify_all()
        return item

    results = prefetch(make, items(), workers, depth)
    for at_work in range(6):
        assert next(results) == at_work
        with can_go:
            assert can_go.wait_for(lambda: len(output) == at_work + 1 + depth, PATIENCE_S)  # noqa: B023
        assert selected == [*range(at_work + 1 + depth)]
    results.close()
    assert len(output) == 6 + depth


def test_a_consumer_that_stops_early_leaves_no_thread_and_nothing_more_is_made():
    before, output = threading.active_count(), []

    def make(item):
        output.append(item)
        return item

    results = prefetch(make, count(), workers=2, depth=3)
    assert [*islice(results, 4)] == [0, 1, 2, 3]
    results.close()
    n_made = len(output)
    assert threading.active_count() == before
    assert len(output) == n_made <= 4 + 3


def test_a_consumer_that_forgets_leaves_no_thread():
    before = threading.active_count()
    for result in prefetch(str, count(), workers=2):
        if result == "2":
            break
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("where", ["results", "items"])
def test_what_goes_wrong_is_raised_in_its_place(workers, where):
    def check(item, at):
        if item >= 3 and where == at:
            raise ZeroDivisionError(f"item {item}")
        return item

    before, got = threading.active_count(), []
    items = (check(item, "items") for item in range(9))
    with pytest.raises(ZeroDivisionError, match="item 3"):
        got.extend(prefetch(lambda item: check(item, "results"), items, workers, depth=4))
    assert got == [0, 1, 2]
    assert threading.active_count() == before


def test_workers_run_torch_on_one_thread_and_others_as_before():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        # A sum that is split among threads tells torch to settle their number.
        big = torch.ones(1_000_000)
        seen = list(
            prefetch(lambda _: (big.sum(), torch.get_num_threads())[1], range(8), workers=2)
        )
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
        later = []
        thread = threading.Thread(
            target=lambda: later.append((big.sum(), torch.get_num_threads())[1])
        )
        thread.start()
        thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)
