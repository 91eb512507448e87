"""--strict: a result that is not ready has an exit status of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmstart.cli.options import Call
from warmstart.cli.output import print_run
from warmstart.records.summary import Level, Readiness
from warmstart.run.deliver import Finished

from .conftest import NO_SIGNAL, SUMMARY


def _status(summary, switches, tmp_path):
    call = Call(verb="fit", places=("photos",), values={}, many={}, switches=frozenset(switches))
    return print_run(call, Finished(path=tmp_path, summary=summary), [])


@pytest.mark.parametrize(
    ("level", "switches", "status"),
    [
        ("ready", {"--strict"}, 0),
        ("review", {"--strict"}, 0),
        ("not-ready", {"--strict"}, 4),
        ("not-ready", set(), 0),
    ],
)
def test_not_ready_exits_with_4_with_strict(level: Level, switches, status, tmp_path, capsys):
    summary = replace(SUMMARY, readiness=Readiness(level=level, reasons=("for a reason",)))
    assert _status(summary, switches, tmp_path) == status
    lead = {"ready": "Ready", "review": "Usable with review", "not-ready": "Not ready"}[level]
    assert capsys.readouterr().out.startswith(f"{lead}: for a reason.")


def test_no_signal_stays_3(tmp_path):
    assert _status(NO_SIGNAL, {"--strict"}, tmp_path) == 3
