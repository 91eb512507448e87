"""Numbers as people read them: the terminal's own tests hold for the report as well."""

from warmstart import formatting
from warmstart.terminal import text

SHARED = ("count", "duration", "interval", "percent", "percents", "printable", "sentence", "size")


def test_terminal_and_report_round_alike():
    assert all(getattr(formatting, name) is getattr(text, name) for name in SHARED)
