"""Freed memory kept: one context in another ends nothing."""

from warmstart.features import machine


class Libc:
    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def mallopt(self, name: int, value: int) -> None:
        self.told.append((name, value))

    def malloc_trim(self, most: int) -> None:
        self.told.append((most,))


def test_only_the_outermost_sets_and_gives_back(monkeypatch) -> None:
    libc = Libc()
    monkeypatch.setattr(machine, "_glibc", lambda: libc)
    with machine.keep_freed_memory():
        began = len(libc.told)
        with machine.keep_freed_memory():
            pass
        assert len(libc.told) == began == 2
    assert libc.told[-1] == (0,)


def test_an_error_inside_gives_it_back(monkeypatch) -> None:
    libc = Libc()
    monkeypatch.setattr(machine, "_glibc", lambda: libc)
    try:
        with machine.keep_freed_memory():
            raise KeyError
    except KeyError:
        assert libc.told[-1] == (0,)
    assert not machine._depth
