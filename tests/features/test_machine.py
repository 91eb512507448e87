"""How many threads a run and a network are given; freed memory that stays."""

from contextlib import suppress
from types import SimpleNamespace

from warmstart.features import machine
from warmstart.features.machine import fix_threads, keep_freed_memory, n_threads, threads_for
from warmstart.records.network import BlockRecord, NetworkRecord


def network(macs: int, shape: tuple[int, ...] = (9,)) -> NetworkRecord:
    block = BlockRecord(
        name="a", parameters=1, shape_in=shape, shape_out=(1,), macs=macs, layout="NC"
    )
    return NetworkRecord(
        blocks=(block, block),
        head_parameters=0,
        partition="traced",
        neck_width=1,
        neck_is_average=False,
    )


def test_a_network_that_does_next_to_nothing_is_run_by_one_thread():
    with fix_threads(7):
        assert [threads_for(network(macs)) for macs in (1000, 10**8)] == [1, 7]
        assert threads_for(network(1000, (3, 8, 8))) == n_threads() == 7


def test_no_more_threads_than_the_user_says(monkeypatch):
    monkeypatch.setattr(machine, "n_processors", lambda: 6)
    for limit, count in (("2", 2), ("64", 6), ("0", 6), ("two", 6)):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert n_threads() == count
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert n_threads() == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it for each of several
    monkeypatch.setattr(machine, "here", lambda: SimpleNamespace(size=2, local=2))
    assert n_threads() == 3


def test_only_the_outermost_context_sets_and_resets_even_after_an_error(monkeypatch):
    calls = []
    libc = SimpleNamespace(
        mallopt=lambda name, value: calls.append((name, value)),
        malloc_trim=lambda n_bytes: calls.append((n_bytes,)),
    )
    monkeypatch.setattr(machine, "_glibc", lambda: libc)
    with suppress(KeyError), keep_freed_memory():
        with keep_freed_memory():
            pass
        assert len(calls) == 2
        raise KeyError
    assert (len(calls), calls[-1], machine._depth) == (5, (0,), 0)
