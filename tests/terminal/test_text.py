"""Numbers and lines for people."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.formatting import duration, interval, percents
from warmstart.terminal.text import column, error_text


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([50, 5000]))
def test_percents_keep_their_order_and_claim_no_false_certainty(low, high, n):
    low, high = sorted((low, high))
    least, most = percents(low, high, n=n)
    assert float(least) <= float(most)
    for share, text in ((low, least), (high, most)):
        assert (text == "100") == (share == 1)
        assert (text == "0") == (share == 0)
        assert abs(float(text) - 100 * share) <= (0.51 if n < 1000 else 0.1)


def test_an_interval_has_one_precision():
    assert interval(0.86, 0.82, 0.894, n=300) == "86 % (95 % CI 82–89)"
    assert interval(0.996, 0.98, 0.999, n=300) == "99.6 % (95 % CI 98.0–99.9)"
    assert interval(0.864, 0.82, 0.894, n=3000) == "86.4 % (95 % CI 82.0–89.4)"
    assert interval(1.0, 0.97, 1.0, n=120) == "100 % (95 % CI 97–100)"
    assert interval(1.0, 0.998, 1 - 1e-16, n=1797) == "100 % (95 % CI 99.8–100)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (7325, "2 h 2 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_a_column_hangs_and_keeps_to_80():
    lines = column("Data", "word " * 40).splitlines()
    assert lines[0].startswith("Data      word")
    assert all(line.startswith(" " * 10 + "word") for line in lines[1:])
    assert max(map(len, lines)) <= 80


def test_a_path_is_never_broken():
    path = "runs/" + "a-very-long-name/" * 8
    assert path in column("Findings", f"something in {path}")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_error_is_filled_on_a_terminal_only(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert error_text("word " * 20, None) == "warmstart: " + " ".join(["word"] * 20)
    lines = error_text("word " * 20, Terminal()).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(" " * 11 + "word") for line in lines[1:])
