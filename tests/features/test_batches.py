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
    assert list(prefetch(lambda item: item * item, range(n), workers, depth)) == [
        item * item for item in range(n)
    ]


def test_order_holds_where_the_first_takes_longest():
    second_done = threading.Event()

    def make(item):
        if item == 0:
            assert second_done.wait(PATIENCE_S)
        if item == 1:
            second_done.set()
        return item

    assert list(prefetch(make, range(4), workers=2)) == [0, 1, 2, 3]


def test_no_worker_makes_it_here_and_only_when_asked():
    output = []

    def make(item):
        output.append((item, threading.current_thread()))
        return item

    results = prefetch(make, range(3), workers=0)
    assert not output
    assert [next(results), next(results)] == [0, 1]
    assert output == [(0, threading.current_thread()), (1, threading.current_thread())]


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


def test_items_are_taken_and_results_made_where_they_should_be():
    takers, makers, here = [], [], threading.current_thread()

    def items():
        for item in range(10):
            takers.append(threading.current_thread())
            yield item

    list(prefetch(lambda _: makers.append(threading.current_thread()), items(), workers=2))
    assert set(takers) == {here}
    assert here not in makers
    assert 1 <= len(set(makers)) <= 2


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
def test_what_goes_wrong_is_raised_in_its_place(workers):
    def make(item):
        if item >= 3:
            raise ZeroDivisionError(f"item {item}")
        return item

    before, got = threading.active_count(), []
    with pytest.raises(ZeroDivisionError, match="item 3"):
        got.extend(prefetch(make, range(9), workers, depth=4))
    assert got == [0, 1, 2]
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_so_is_what_goes_wrong_with_the_items(workers):
    def items():
        yield from range(3)
        raise LookupError("no more")

    before, got = threading.active_count(), []
    with pytest.raises(LookupError, match="no more"):
        got.extend(prefetch(str, items(), workers, depth=4))
    assert got == ["0", "1", "2"]
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
