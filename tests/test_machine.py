"""How much memory a reader may take."""

import pytest

from warmstart import machine
from warmstart.errors import DataError


def test_what_does_not_fit_is_refused_with_a_cure(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 4 * 10**9)
    machine.check_memory(2 * 10**9, "t.csv")
    with pytest.raises(DataError, match=r"^t.csv takes about 3.0 GB of memory .* 2.0 GB may be"):
        machine.check_memory(3 * 10**9, "t.csv")


def test_where_the_system_says_nothing_there_is_a_limit(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    assert machine.reading_limit() == 2 * 2**30
