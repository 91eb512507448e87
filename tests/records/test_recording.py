"""A run's own record: each event a line, each stage its time, one marker at the end."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny
from warmstart.errors import DataError, RunFolderError, TrainingError
from warmstart.events import Event, drain, follow
from warmstart.machine import peak_rss_mb
from warmstart.records.run_folder import (
    LOG,
    MARKERS,
    STAGES,
    Clock,
    RunFolder,
    earlier_events,
    open_log,
    opening,
    recorded,
    seconds_worked,
)
from warmstart.reporting.curves import CurveReader

EVENTS = [
    Event(stage="features", kind="begin", of=2, t=1.0),
    Event(stage="features", kind="step", step=1, of=2, values={"größe": 1.5}, t=2.0),
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


@pytest.mark.parametrize(
    ("error", "marker", "text"),
    [
        (ZeroDivisionError("by zero"), "FAILED", "ZeroDivisionError('by zero')"),
        (DataError("photos is empty"), "FAILED", "photos is empty"),
        (OSError(errno.EIO, "Input/output error"), "FAILED", "OSError(5, 'Input/output error')"),
        (KeyboardInterrupt(), "INTERRUPTED", "stopped by the user; what was computed is kept"),
    ],
)
def test_an_error_leaves_its_marker_and_goes_on_up(run, error, marker, text):
    with pytest.raises(type(error)) as caught:
        drain(recorded(steps(error=error), run))
    assert caught.value is error
    assert markers(run) == [marker]
    assert (run.path / marker).read_text() == text + "\n"
    assert len(logged(run)) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("has_request", [True, False])
def test_a_full_disk_is_one_line_that_says_what_to_do(run, number, has_request):
    if has_request:
        (run.path / "request.json").touch()
    error = OSError(number, "No space left on device", "model.safetensors")
    with pytest.raises(TrainingError) as caught:
        drain(recorded(steps(error=error), run))
    way = f"`warmstart resume {run.path}`" if has_request else "the same command again"
    assert str(caught.value) == (
        "the disk is full (model.safetensors); what was computed is kept. "
        f"Make room, then run {way} to continue."
    )
    assert caught.value.exit_code == 1
    assert markers(run) == ["INTERRUPTED"]


def test_a_full_disk_behind_another_error_is_told_as_such(run):
    def work():
        yield EVENTS[0]
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "clean.csv")
        except OSError as error:
            raise RunFolderError("clean.csv cannot be written") from error

    with pytest.raises(TrainingError, match=r"the disk is full \(clean\.csv\)"):
        drain(recorded(work(), run))
    assert markers(run) == ["INTERRUPTED"]


def test_too_little_memory_is_an_interruption(run):
    with pytest.raises(TrainingError) as caught:
        drain(recorded(steps(error=MemoryError()), run))
    assert str(caught.value) == (
        "there is not enough memory; what was computed is kept. "
        "Close other programs, then run the same command again to continue."
    )
    assert markers(run) == ["INTERRUPTED"]


def test_a_disk_that_takes_no_more_of_the_log(run, monkeypatch):
    """The log itself is on a full disk: its last line stays half, and is cut off later."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full, pytest.raises(TrainingError):
        drain(recorded(steps(), run, full))
    assert markers(run) == ["INTERRUPTED"]


def test_a_full_disk_under_the_log_is_an_interruption_too(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("warmstart.records.run_folder.json.dumps", full)
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


# ---- going on ----------------------------------------------------------------------------


def test_checkpoints_are_removed_when_all_is_done_and_not_before(run):
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "last.safetensors").touch()
    with pytest.raises(KeyboardInterrupt):
        drain(recorded(steps(error=KeyboardInterrupt()), run))
    assert (run.path / "checkpoints" / "last.safetensors").exists()
    drain(recorded(steps(), run))
    assert markers(run) == ["DONE"]
    assert not (run.path / "checkpoints").exists()


def test_a_log_is_held_alone_and_given_back(run):
    with open_log(run), pytest.raises(RunFolderError) as caught:
        open_log(run)
    assert str(caught.value) == (
        f"another process works on {run.path}; wait until it ends, or stop it first."
    )
    open_log(run).close()


def test_a_killed_process_gives_the_log_back(run):
    code = (
        "import os, sys, signal; from pathlib import Path\n"
        "from warmstart.records.run_folder import RunFolder\n"
        "from warmstart.records.run_folder import open_log\n"
        "log = open_log(RunFolder(Path(sys.argv[1]))); print('held', flush=True)\n"
        "signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="another process works on"):
            open_log(run)
        child.kill()
        child.wait()
        open_log(run).close()


def test_a_disk_without_locks_does_without(run, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("warmstart.records.run_folder.fcntl.flock", none)
    with open_log(run) as log:
        log.write("x\n")


@pytest.mark.parametrize("torn", ['{"stage": "features", "ki', "\0\0\0", "grö"])
def test_half_a_line_is_cut_off(run, torn):
    drain(recorded(steps(), run))
    whole = (run.path / "progress.jsonl").read_bytes()
    (run.path / "progress.jsonl").write_bytes(whole + torn.encode()[:-1] + b"\xc3")
    drain(recorded(steps(), run))
    assert (run.path / "progress.jsonl").read_bytes() == whole + whole


def test_the_log_says_how_long_was_worked(tmp_path):
    """Two processes; what lies between them is nobody's time."""

    def event(stage, t, **values):
        return Event(stage=stage, kind="note", t=t, values=values)

    told = [
        event("read", 100.0, folder="runs/a", read=2.5, features=1.0),
        event("features", 104.0),
        event("checks", 105.0),
        event("checks", 106.5),
        event("read", 1000.0, folder="/runs/a", read=2.0, title="Resumed"),
        event("checks", 1001.0),
        event("head", 1003.0),
    ]
    path = tmp_path / "progress.jsonl"
    path.write_text("no event\n" + "".join(json.dumps(asdict(e)) + "\n" for e in told) + "{}\n")
    seconds = seconds_worked(path)
    assert {stage: s for stage, s in seconds.items() if s} == {
        "read": 4.5,
        "features": 5.0,
        "checks": 3.5,
        "head": 2.0,
    }
    clock = Clock()
    clock.lap("read")
    clock.add(seconds)
    assert clock.table()["total"] >= 15.0
    assert clock.table()["checks"] == 3.5


def test_a_process_begins_its_part_of_the_log_with_what_it_worked_before(run):
    clock = Clock()
    clock.seconds["read"] = 1.25
    assert opening(run, clock).values == {"folder": str(run.path), "read": 1.25}
    assert opening(run, clock, "goes on").values["text"] == "goes on"


# ---- time and memory ---------------------------------------------------------------------


def test_the_clock_gives_every_second_to_one_stage():
    clock = Clock()
    time.sleep(0.02)
    clock.lap("read")
    time.sleep(0.01)
    clock.lap("features")
    clock.lap("head")
    table = clock.table()
    assert list(table) == [*STAGES, "total"]
    assert table["read"] >= 0.02
    assert table["features"] >= 0.01
    assert table["plan"] == 0
    assert sum(table.values()) - table["total"] == pytest.approx(table["total"], abs=0.01)


def test_what_a_run_leaves_behind_draws_every_curve_again(pictures, tmp_path):
    """Loss, rate, speed and memory at each update of each training; val at each look."""
    seen = []
    run = tiny.fit(
        pictures,
        out=tmp_path / "run",
        strategy="last:1",
        on_event=seen.append,
        settings=["training.epochs=4.4444", "training.folds=2"],
        track="tensorboard",
    )
    rate = run.plan.training.lr.number
    drawn = curves_of(earlier_events(run.path / LOG), rate)
    assert drawn == curves_of(seen, rate)
    updates = {name: sorted(drawn[f"{name}/loss"]) for name in ("fold1", "fold2", "final")}
    n = len(updates["final"])
    assert [n for steps in updates.values() for n in steps] == list(
        range(1, 2 * n + 1)
    )  # two halves
    for name, steps in updates.items():
        assert sorted(drawn[f"{name}/lr"]) == steps
        assert max(drawn[f"{name}/lr"].values()) == pytest.approx(rate, rel=0.1)
    for name in ("speed/images_per_second", "memory/peak_mb"):
        assert len(drawn[name]) == 2 * n
        assert min(drawn[name].values()) > 0
    for name in ("fold1", "fold2"):
        looks = sorted(drawn[f"{name}/val_accuracy"])
        assert looks
        assert looks == sorted(drawn[f"{name}/val_loss"]) == sorted(drawn[f"{name}/head_accuracy"])
    shown = shown_by_tensorboard(run.path)
    assert shown["result/accuracy"] == {2 * n: pytest.approx(run.estimate.value)}
    for name, points in drawn.items():
        assert all(points[at] == pytest.approx(value) for at, value in shown[name].items())
        assert shown[name].keys() == points.keys() or "val" not in name


def curves_of(events, rate):
    """Curves by name, each a number by step."""
    reader, found = CurveReader(), {}
    reader.lr = rate
    for event in events:
        for name, value in reader.read(event).items():
            found.setdefault(name, {})[event.step] = value
    return found


def shown_by_tensorboard(run):
    board = EventAccumulator(str(run / "track" / run.name), size_guidance={"scalars": 0})
    board.Reload()
    return {n: {s.step: s.value for s in board.Scalars(n)} for n in board.Tags()["scalars"]}


def test_memory_is_in_megabytes():
    before = peak_rss_mb()
    block = bytearray(60_000_000)
    assert before > 20
    assert peak_rss_mb() >= before
    del block
