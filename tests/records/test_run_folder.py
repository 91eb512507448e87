"""Run folders: files whole or absent, records there and back, the log, one marker at the end."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.errors import DataError, RunFolderError, TrainingError
from warmstart.events import Event, drain, follow
from warmstart.records import answer, network, run_folder, summary
from warmstart.records.data import DataRecord, Example
from warmstart.records.findings import FINDINGS, Finding
from warmstart.records.inputs import Inputs, Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Choice
from warmstart.records.run_folder import (
    LOG,
    MARKERS,
    STAGES,
    Clock,
    RunFolder,
    earlier_events,
    from_plain,
    open_log,
    opening,
    read_json,
    recorded,
    seconds_worked,
    to_plain,
    write_bytes,
    write_chunks,
    write_csv,
    write_json,
    write_json_lines,
)

numbers = st.floats(allow_nan=False, allow_infinity=False)
RECORDS = [
    FeatureLayer,
    Preprocessing,
    Example,
    Finding,
    summary.Evidence,
    summary.Prediction,
    summary.Summary,
    answer.CalibrationRecord,
    answer.ModelRecord,
    answer.Answer,
    answer.Exported,
    network.Ledger,
    network.NetworkRecord,
    network.BaseModelRecord,
    DataRecord,
]
plain = st.booleans() | numbers | st.integers() | st.text().filter(lambda text: text != "auto")
values = plain | st.lists(plain).map(tuple)
st.register_type_strategy(float, numbers)
st.register_type_strategy(Inputs, st.one_of([*map(st.from_type, Inputs.members.values())]))
st.register_type_strategy(
    summary.TestScores,
    st.one_of(*map(st.from_type, (summary.Scores, summary.LabelScores, summary.NumberScores))),
)
st.register_type_strategy(
    Finding, st.builds(Finding, code=st.just(""), kind=st.sampled_from([*FINDINGS]))
)
st.register_type_strategy(  # without what its own rules refuse: no reason, and "auto"
    Choice,
    st.builds(
        Choice,
        value=values,
        because=st.text(min_size=1),
        source=st.sampled_from(["rule", "measured", "user"]),
        rule=st.none() | values,
    ),
)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_a_record_survives_json(kind, data):
    record = data.draw(st.from_type(kind))
    assert from_plain(kind, json.loads(json.dumps(to_plain(record)))) == record


@pytest.mark.parametrize("value", [1, 1.5, "x", True, (1, 2.5), ("a", "b"), ()])
def test_a_choice_keeps_the_type_of_its_value(value):
    choice = Choice(value=value, because="so", source="rule", rule=value)
    again = from_plain(Choice, json.loads(json.dumps(to_plain(choice))))
    assert again == choice
    assert type(again.value) is type(value)


def test_keys_of_a_later_version_are_ignored_and_missing_ones_are_not():
    layer = FeatureLayer(block=1, pool="avg")
    assert from_plain(FeatureLayer, {"block": 1, "pool": "avg", "later": 3}) == layer
    with pytest.raises(KeyError):
        from_plain(FeatureLayer, {"block": 1})
    with pytest.raises(ValueError, match="'max' is not one of avg, grid2, first, neck"):
        from_plain(FeatureLayer, {"block": 1, "pool": "max"})


# ---- files


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_existing_file_survives_a_write_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    monkeypatch.setattr(run_folder.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    monkeypatch.undo()

    def torn():
        yield b"half"
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_chunks(path, torn())
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"
    write_chunks(path, (bytes([n]) * 2 for n in range(3)))
    assert path.read_bytes() == b"\0\0\1\1\2\2"


def test_files_are_utf8_and_hold_numbers_only(tmp_path):
    write_json(tmp_path / "a.json", {"klasse": "größe"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "klasse": "größe"\n}\n'.encode()
    write_json_lines(tmp_path / "b.jsonl", [FeatureLayer(block=1, pool="avg"), {"a": (1, 2)}])
    written = '{"block": 1, "pool": "avg", "of": ""}\n{"a": [1, 2]}\n'
    assert (tmp_path / "b.jsonl").read_text() == written
    write_csv(tmp_path / "c.csv", ("id", "label"), [("a,b", "x")])
    assert (tmp_path / "c.csv").read_bytes() == b'id,label\r\n"a,b",x\r\n'
    for write, value in ((write_json, {"a": float("nan")}), (write_json_lines, [float("inf")])):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(tmp_path / "d.json", value)
    assert not (tmp_path / "d.json").exists()


DAMAGED = ["", "{", "[]", "3", "null", '{"block": 1}', '{"block": 1, "pool": 2}', "[" * 10**5]
DAMAGED += ['{"block": NaN, "pool": "avg"}', b"\xff\xfe\x00", None]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "layer.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RunFolderError, match=r"layer\.json cannot be read") as caught:
        read_json(path, FeatureLayer)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_whether_there_is_a_run_to_finish(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match=r"has no a\.json; it is not a finished run"):
            read_json(path / "a.json", FeatureLayer)
    for name, cure in (("request.json", "`warmstart resume "), ("FAILED", "the same command")):
        (tmp_path / name).touch()
        with pytest.raises(RunFolderError, match=rf"not finished\. To continue: {cure}"):
            read_json(tmp_path / "a.json", FeatureLayer)


def test_a_record_of_many_examples_is_never_in_memory_as_text(tmp_path):
    examples = tuple(
        Example(id=f"photos/{k}.jpg", label="cat", split="train", sha256=f"{k:064x}")
        for k in range(4000)
    )
    record = DataRecord(
        name="photos", kind="image", task="classify", layout="", classes=("cat",), examples=examples
    )
    tracemalloc.start()
    write_json(tmp_path / "data.json", record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = (tmp_path / "data.json").read_text()
    assert written == json.dumps(to_plain(record), indent=2) + "\n"
    assert peak < len(written) / 2
    assert read_json(tmp_path / "data.json", DataRecord) == record


# ---- folders


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_new_folder_and_an_empty_one_are_used(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "deep" / "down"):
        assert RunFolder.create(path).path == path
        assert not list(path.iterdir())


@pytest.mark.parametrize("path", ["file/run", "n" * 300, "file/deep/run"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"cannot be written .*; choose another folder"):
        RunFolder.create(tmp_path / path)


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path, monkeypatch):
    def closed(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(RunFolderError, match=r"cannot be written \(Permission denied\)"):
        RunFolder.check_free(tmp_path)


LEFT = ("plan.toml", "summary.json.partial", "checkpoints/last.safetensors", "model/config.json")


@pytest.mark.parametrize(
    "names",
    [
        (*LEFT, "progress.jsonl", "request.json", "FAILED"),
        (*LEFT, "FAILED"),
        ("progress.jsonl", "inspection.json", "INTERRUPTED"),  # of `check`: nothing to resume
        ("progress.jsonl", "request.json.partial"),  # killed while the request was written
    ],
)
def test_a_run_that_cannot_be_resumed_makes_room_for_the_same_command(tmp_path, names):
    fill(tmp_path, names)
    RunFolder.create(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "names",
    [
        (".hidden",),
        ("progress.jsonl", "plan.toml"),
        ("DONE", "summary.json", "plan.toml"),
        ("DONE", "summary.json", "plan.toml", "request.json"),
        ("INTERRUPTED", "plan.toml", "letter.txt"),  # somebody else's file
        ("FAILED", "request.json", "letter.txt"),
        ("INTERRUPTED", "DONE"),
    ],
)
def test_every_other_folder_is_left_alone(tmp_path, names):
    fill(tmp_path, names)
    for path in (tmp_path, tmp_path / names[0]):
        with pytest.raises(RunFolderError, match="exists and is not empty; nothing was changed"):
            RunFolder.create(path)
    assert {path.name for path in tmp_path.iterdir()} == set(names)


@pytest.mark.parametrize("marker", [(), ("INTERRUPTED",)])
def test_a_run_that_can_be_resumed_is_never_wiped(tmp_path, marker):
    path, names = tmp_path / "my run", {"request.json", "progress.jsonl", "plan.toml", *marker}
    fill(path, names)
    with pytest.raises(RunFolderError, match=f"Run `warmstart resume '{path}'` to continue"):
        RunFolder.create(path)
    assert {path.name for path in path.iterdir()} == names


@pytest.mark.parametrize(
    ("names", "can"),
    [
        (("request.json",), True),
        (("request.json", "INTERRUPTED"), True),
        (("request.json", "FAILED"), False),
        (("request.json", "DONE"), False),
        (("INTERRUPTED",), False),
        ((), False),
    ],
)
def test_a_run_that_has_begun_and_not_ended_can_be_resumed(tmp_path, names, can):
    fill(tmp_path, names)
    run = RunFolder(tmp_path)
    assert run.is_resumable == can
    assert run.is_unfinished == (can or bool({"FAILED", "INTERRUPTED"} & set(names)))
    assert ("resume" in run.resume_command) == can


def test_names_are_counted_up_and_the_last_is_linked(tmp_path):
    (tmp_path / "latest").symlink_to("gone")
    for name in ("photos", "photos-2", "photos-3"):
        run = RunFolder.create_beside(tmp_path, "photos")
        assert run.path.name == name
        run.mark("DONE")
        run.point_latest()
        assert (tmp_path / "latest").readlink() == Path(name)
    assert not (tmp_path / ".latest.partial").is_symlink()


def test_a_run_called_latest_is_not_overwritten_by_the_link(tmp_path, monkeypatch):
    RunFolder.create_beside(tmp_path, "latest").point_latest()
    other = RunFolder.create_beside(tmp_path, "photos")
    other.point_latest()
    assert (tmp_path / "latest").is_dir()
    assert not (tmp_path / "latest").is_symlink()
    (tmp_path / "latest").rmdir()
    monkeypatch.setattr(Path, "symlink_to", no_space)  # a disk without links
    other.point_latest()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_one_marker_at_a_time_and_none_at_work(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    for marker, text in (("FAILED", "why"), ("INTERRUPTED", "by whom"), ("DONE", "")):
        run.mark(marker, text)
        assert [path.name for path in tmp_path.iterdir()] == [marker]
        assert (tmp_path / marker).read_text() == (f"{text}\n" if text else "")
    run.unmark()
    monkeypatch.setattr(run_folder, "write_bytes", no_space)
    run.mark("INTERRUPTED", "a full disk still has room for an empty file")
    assert (tmp_path / "INTERRUPTED").read_bytes() == b""
    monkeypatch.setattr(Path, "touch", no_space)
    run.mark("FAILED", "why")  # not even that: then there is no marker
    assert not list(tmp_path.iterdir())


# ---- the log

EVENTS = [
    Event(stage="features", kind="begin", of=2, t=1.0),
    Event(stage="features", kind="step", step=1, of=2, values={"größe": 1.5}, t=2.0),
]


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run")


def steps(error=None, closed=None):
    try:
        yield from EVENTS
        if error is not None:
            raise error
        return 7
    finally:
        if closed is not None:
            closed()


def markers(run):
    return [name for name in MARKERS if (run.path / name).exists()]


def test_events_are_on_disk_before_anybody_sees_them(run):
    seen = []

    def see(event):
        seen.append(event)
        assert earlier_events(run.path / LOG) == seen

    assert follow(recorded(steps(), run), see) == 7
    assert seen == EVENTS
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
def test_an_error_leaves_its_marker_and_is_raised(run, error, marker, text):
    checkpoint = run.path / "checkpoints" / "last.safetensors"
    fill(run.path, ["checkpoints/last.safetensors"])
    with pytest.raises(type(error)) as caught:
        drain(recorded(steps(error), run))
    assert caught.value is error
    assert markers(run) == [marker]
    assert (run.path / marker).read_text() == text + "\n"
    assert len(earlier_events(run.path / LOG)) == 2
    assert checkpoint.exists()
    drain(recorded(steps(), run))
    assert markers(run) == ["DONE"]
    assert not checkpoint.parent.exists()


def behind_another():
    error = RunFolderError("clean.csv cannot be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "clean.csv")
    return error


@pytest.mark.parametrize("has_request", [True, False])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space", "a.onnx"), r"disk is full \(a\.onnx\).* Make room"),
        (OSError(errno.EDQUOT, "No space"), r"disk is full \(/.*\).* Make room"),
        (behind_another(), r"disk is full \(clean\.csv\)"),
        (MemoryError(), "not enough memory.* Close other programs"),
    ],
)
def test_a_shortage_is_one_line_with_its_cure(run, error, words, has_request):
    if has_request:
        fill(run.path, ["request.json"])
    with pytest.raises(TrainingError, match=words) as caught:
        drain(recorded(steps(error), run))
    cure = f"`warmstart resume {run.path}`" if has_request else "the same command again"
    assert str(caught.value).endswith(f", then run {cure} to continue.")
    assert markers(run) == ["INTERRUPTED"]


def test_a_full_disk_under_the_log_closes_the_work_before_the_marker(run, monkeypatch):
    seen = []
    with open("/dev/full", "w", encoding="utf-8") as full, pytest.raises(TrainingError):
        drain(recorded(steps(closed=lambda: seen.append(markers(run))), run, full))
    assert markers(run) == ["INTERRUPTED"]
    run.unmark()
    working = recorded(steps(closed=lambda: seen.append(markers(run))), run)
    next(working)
    working.close()
    assert seen == [[], []]
    assert markers(run) == ["INTERRUPTED"]


def test_a_log_is_locked_until_its_process_ends(run, monkeypatch):
    code = (
        "import sys, signal; from pathlib import Path\n"
        "from warmstart.records.run_folder import RunFolder, open_log\n"
        "log = open_log(RunFolder(Path(sys.argv[1]))); print('locked', flush=True)\n"
        "signal.pause()"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(RunFolderError, match="another process works on"):
            open_log(run)
        child.kill()
        child.wait()
        open_log(run).close()
    monkeypatch.setattr(run_folder.fcntl, "flock", no_space)  # a disk without locks
    open_log(run).close()


@pytest.mark.parametrize("torn", [b'{"stage": "features", "ki', b"\0\0\0", b"gr\xc3"])
def test_half_a_line_is_cut_off(run, torn):
    drain(recorded(steps(), run))
    whole = (run.path / LOG).read_bytes()
    (run.path / LOG).write_bytes(whole + torn)
    drain(recorded(steps(), run))
    assert (run.path / LOG).read_bytes() == whole + whole


def test_the_log_says_how_long_its_processes_worked(run):
    def event(stage, t, **values):
        return Event(stage=stage, kind="note", t=t, values=values)

    clock = Clock()
    clock.seconds["read"] = 2.0
    resumed = opening(run, clock, "resumes")
    assert resumed.values == {
        "folder": str(run.path),
        "read": 2.0,
        "title": "Resumed",
        "text": "resumes",
    }
    events = [
        event("read", 100.0, folder="runs/a", read=2.5, features=1.0),
        event("features", 104.0),
        event("checks", 106.5),
        event("read", 1000.0, **resumed.values),
        event("checks", 1001.0),
        event("head", 1003.0),
    ]
    lines = "".join(json.dumps(asdict(e)) + "\n" for e in events)
    (run.path / LOG).write_text("no event\n" + lines + "{}\n")
    seconds = {stage: s for stage, s in seconds_worked(run.path / LOG).items() if s}
    assert seconds == {"read": 4.5, "features": 5.0, "checks": 3.5, "head": 2.0}
    clock.add(seconds)
    assert clock.table()["total"] >= 15.0
    assert clock.table()["checks"] == 3.5


def test_the_clock_gives_every_second_to_one_stage():
    clock = Clock()
    time.sleep(0.02)
    clock.lap("read")
    clock.lap("features")
    table = clock.table()
    assert list(table) == [*STAGES, "total"]
    assert table["read"] >= 0.02
    assert sum(table.values()) - table["total"] == pytest.approx(table["total"], abs=0.01)
