"""A run's own record: each event a line, each stage its time, one marker at the end."""

from __future__ import annotations

import errno
import json
import time

import pytest

from warmstart.errors import DataError, TrainingError
from warmstart.events import Event, drain, follow
from warmstart.folder import MARKERS, RunFolder
from warmstart.recording import STAGES, Clock, peak_rss_mb, recorded

EVENTS = [
    Event(stage="look", kind="begin", of=2, t=1.0),
    Event(stage="look", kind="step", step=1, of=2, values={"größe": 1.5}, t=2.0),
]


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run")


def steps(*, error=None, closed=None):
    try:
        yield from EVENTS
        if error is not None:
            raise error
        return 7
    finally:
        if closed is not None:
            closed.append(True)


def markers(run):
    return [name for name in MARKERS if (run.path / name).exists()]


def logged(run):
    return [json.loads(line) for line in (run.path / "progress.jsonl").read_text().splitlines()]


def test_events_pass_through_and_are_written_down(run):
    seen = []

    def see(event):
        seen.append(event)
        assert len(logged(run)) == len(seen)  # on disk before anybody sees it

    assert follow(recorded(steps(), run), see) == 7
    assert seen == EVENTS
    assert [Event(**line) for line in logged(run)] == EVENTS
    assert markers(run) == ["DONE"]


@pytest.mark.parametrize(("error", "marker", "text"), [
    (ZeroDivisionError("by zero"), "FAILED", "ZeroDivisionError('by zero')"),
    (DataError("photos is empty"), "FAILED", "photos is empty"),
    (OSError(errno.EIO, "Input/output error"), "FAILED", "OSError(5, 'Input/output error')"),
    (MemoryError(), "FAILED", "MemoryError()"),
    (KeyboardInterrupt(), "INTERRUPTED", "stopped by the user; what was computed is kept"),
])  # fmt: skip
def test_an_error_leaves_its_marker_and_goes_on_up(run, error, marker, text):
    with pytest.raises(type(error)) as caught:
        drain(recorded(steps(error=error), run))
    assert caught.value is error
    assert markers(run) == [marker]
    assert (run.path / marker).read_text() == text + "\n"
    assert len(logged(run)) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_that_says_what_to_do(run, number):
    error = OSError(number, "No space left on device", "model.safetensors")
    with pytest.raises(TrainingError) as caught:
        drain(recorded(steps(error=error), run))
    assert str(caught.value) == (
        "the disk is full (model.safetensors); what was computed is kept. "
        "Make room, then run the same command again."
    )
    assert caught.value.exit_code == 1
    assert markers(run) == ["INTERRUPTED"]


def test_a_full_disk_under_the_log_is_an_interruption_too(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("warmstart.recording.json.dumps", full)
    closed = []
    with pytest.raises(TrainingError, match="the disk is full"):
        drain(recorded(steps(closed=closed), run))
    assert markers(run) == ["INTERRUPTED"]
    assert closed


def test_closing_it_closes_the_work_before_the_marker_is_written(run):
    order = []

    def work():
        try:
            yield EVENTS[0]
        finally:
            order.append(markers(run))

    working = recorded(work(), run)
    next(working)
    working.close()
    assert order == [[]]
    assert markers(run) == ["INTERRUPTED"]


def test_the_clock_gives_every_second_to_one_stage():
    clock = Clock()
    time.sleep(0.02)
    clock.lap("read")
    time.sleep(0.01)
    clock.lap("look")
    clock.lap("head")
    table = clock.table()
    assert list(table) == [*STAGES, "total"]
    assert table["read"] >= 0.02
    assert table["look"] >= 0.01
    assert table["plan"] == 0
    assert sum(table.values()) - table["total"] == pytest.approx(table["total"], abs=0.01)


def test_memory_is_in_megabytes():
    before = peak_rss_mb()
    block = bytearray(60_000_000)
    assert before > 20
    assert peak_rss_mb() >= before
    del block
