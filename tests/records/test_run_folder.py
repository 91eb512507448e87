"""The run folder: files whole or absent, records there and back, nobody's folder touched."""

from __future__ import annotations

import errno
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.errors import RunFolderError
from warmstart.records import answer, network, run_folder
from warmstart.records import data as records_data
from warmstart.records.answer import CalibrationRecord, ModelRecord
from warmstart.records.data import FINDINGS, Example, Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Choice
from warmstart.records.run_folder import (
    RunFolder,
    from_plain,
    read_json,
    to_plain,
    write_bytes,
    write_chunks,
    write_json,
    write_json_lines,
)
from warmstart.records.summary import Estimate, Evidence, Prediction, Summary

numbers = st.floats(allow_nan=False, allow_infinity=False)
RECORDS = [
    FeatureLayer,
    Preprocessing,
    Example,
    Finding,
    Evidence,
    Estimate,
    Prediction,
    CalibrationRecord,
    ModelRecord,
    Summary,
    network.Ledger,
    network.NetworkRecord,
    records_data.DataRecord,
    answer.Answer,
    network.BaseModelRecord,
]
plain = st.one_of(
    st.booleans(), numbers, st.integers(), st.text().filter(lambda text: text != "auto")
)
values = st.one_of(plain, st.lists(plain).map(tuple))
st.register_type_strategy(float, numbers)
st.register_type_strategy(
    Finding, st.builds(Finding, code=st.just(""), kind=st.sampled_from([*FINDINGS]))
)
st.register_type_strategy(  # what its own rules refuse is not drawn: no reason, and "auto"
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
@settings(max_examples=40)
@given(data=st.data())
def test_a_record_survives_json(kind, data):
    record = data.draw(st.from_type(kind))
    again = from_plain(kind, json.loads(json.dumps(to_plain(record))))
    assert again == record


@pytest.mark.parametrize("value", [1, 1.5, "x", True, (1, 2.5), ("a", "b"), (), 0.1])
def test_a_choice_keeps_the_kind_of_its_value(value):
    choice = Choice(value=value, because="so", source="rule", rule=value)
    again = from_plain(Choice, json.loads(json.dumps(to_plain(choice))))
    assert again == choice
    assert type(again.value) is type(value)


def test_keys_of_a_later_version_are_ignored_and_missing_ones_are_not():
    assert from_plain(FeatureLayer, {"block": 1, "pool": "avg", "later": 3}) == FeatureLayer(
        block=1, pool="avg"
    )
    with pytest.raises(KeyError):
        from_plain(FeatureLayer, {"block": 1})
    with pytest.raises(ValueError, match="'max' is not one of avg, grid2, first, neck"):
        from_plain(FeatureLayer, {"block": 1, "pool": "max"})


# ---- files -------------------------------------------------------------------------------


def test_an_existing_file_survives_a_write_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_what_is_no_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_lines(tmp_path / "b.jsonl", [{"a": float("inf")}])
    assert not list(tmp_path.iterdir())


def test_json_is_utf8_and_ends_in_a_line(tmp_path):
    write_json(tmp_path / "a.json", {"klasse": "größe"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "klasse": "größe"\n}\n'.encode()
    write_json_lines(tmp_path / "b.jsonl", [FeatureLayer(block=1, pool="avg"), {"a": (1, 2)}])
    written = '{"block": 1, "pool": "avg", "of": ""}\n{"a": [1, 2]}\n'
    assert (tmp_path / "b.jsonl").read_text() == written


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"block": 1}', '{"block": 1, "pool": 2}']
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, text):
    (tmp_path / "tap.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"tap\.json cannot be read") as caught:
        read_json(tmp_path / "tap.json", FeatureLayer)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_a_file_that_is_a_folder(tmp_path):
    (tmp_path / "tap.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "other.json").mkdir()
    for name in ("tap.json", "other.json"):
        with pytest.raises(RunFolderError, match=f"{name} cannot be read"):
            read_json(tmp_path / name, FeatureLayer)


def test_a_missing_file_says_that_this_is_no_finished_run(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match=r"has no tap\.json; it is not a finished run"):
            read_json(path / "tap.json", FeatureLayer)


def test_a_missing_file_of_a_run_at_work_says_how_to_go_on(tmp_path):
    (tmp_path / "request.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"has not finished. To continue: `warmstart resume "):
        read_json(tmp_path / "tap.json", FeatureLayer)
    (tmp_path / "FAILED").touch()
    with pytest.raises(RunFolderError, match=r"To continue: the same command again"):
        read_json(tmp_path / "tap.json", FeatureLayer)


# ---- folders -----------------------------------------------------------------------------


def test_a_new_folder_and_an_empty_one_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "deep" / "down"):
        assert RunFolder.create(path).path == path
        assert not list(path.iterdir())


def test_a_folder_with_anything_in_it_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").touch()
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "full", tmp_path / "file"):
        with pytest.raises(RunFolderError, match="exists and is not empty; nothing was changed"):
            RunFolder.create(path)
    assert (tmp_path / "file").read_text() == "text"


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


LEFT = (
    "progress.jsonl",
    "plan.toml",
    "summary.json.partial",
    "checkpoints/last.safetensors",
    "model/config.json",
)


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    "names",
    [
        (*LEFT, "request.json", "FAILED"),
        (*LEFT, "FAILED"),
        (
            "progress.jsonl",
            "inspection.json",
            "INTERRUPTED",
        ),  # of `check`: there is nothing to resume
        ("progress.jsonl", "request.json.partial"),  # killed before anything was promised
    ],
)
def test_a_run_that_cannot_go_on_makes_room_for_the_same_command(tmp_path, names):
    fill(tmp_path, names)
    RunFolder.create(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "names",
    [
        ("progress.jsonl", "plan.toml"),
        ("DONE", "summary.json", "plan.toml"),
        ("DONE", "summary.json", "plan.toml", "request.json"),
        ("INTERRUPTED", "plan.toml", "letter.txt"),  # something of somebody else's
        ("FAILED", "request.json", "letter.txt"),
        ("INTERRUPTED", "DONE"),
    ],
)
def test_every_other_folder_is_left_alone(tmp_path, names):
    fill(tmp_path, names)
    with pytest.raises(RunFolderError, match="exists and is not empty; nothing was changed"):
        RunFolder.create(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names)


@pytest.mark.parametrize("marker", [(), ("INTERRUPTED",)])
def test_a_run_that_can_go_on_is_never_wiped(tmp_path, marker):
    """Killed, at work or interrupted: the error names what goes on with it."""
    path = tmp_path / "my run"
    names = ("request.json", "progress.jsonl", "plan.toml", *marker)
    fill(path, names)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.create(path)
    assert str(caught.value) == (
        f"{path} holds an unfinished run; nothing was changed. "
        f"Run `warmstart resume '{path}'` to continue it, or choose another --out."
    )
    assert {path.name for path in path.iterdir()} == set(names)


def test_taken_names_are_counted_up(tmp_path):
    made = []
    for _ in range(3):
        run = RunFolder.create_beside(tmp_path, "photos")
        run.mark("DONE")
        run.point_latest()
        made.append(run.path.name)
    assert made == ["photos", "photos-2", "photos-3"]
    assert (tmp_path / "latest").readlink() == Path("photos-3")
    assert not (tmp_path / ".latest.partial").is_symlink()


def test_a_run_called_latest_is_not_overwritten_by_the_link(tmp_path):
    run = RunFolder.create_beside(tmp_path, "latest")
    run.point_latest()
    assert not (tmp_path / "latest").is_symlink()
    other = RunFolder.create_beside(tmp_path, "photos")
    other.point_latest()
    assert (tmp_path / "latest").is_dir()
    assert not (tmp_path / "latest").is_symlink()


def test_a_link_that_leads_nowhere_is_replaced(tmp_path):
    (tmp_path / "latest").symlink_to("gone")
    RunFolder.create_beside(tmp_path, "photos").point_latest()
    assert (tmp_path / "latest").resolve() == (tmp_path / "photos").resolve()


def test_a_disk_without_links_does_without_the_link(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    run = RunFolder.create_beside(tmp_path, "photos")
    monkeypatch.setattr(Path, "symlink_to", no_links)
    run.point_latest()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_one_marker_at_a_time(tmp_path):
    run = RunFolder(tmp_path)
    for marker, text in (("FAILED", "why"), ("INTERRUPTED", "by whom"), ("DONE", "")):
        run.mark(marker, text)
        assert [path.name for path in tmp_path.iterdir()] == [marker]
        assert (tmp_path / marker).read_text() == (f"{text}\n" if text else "")


def test_a_full_disk_still_takes_a_marker(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder, "write_bytes", full)
    RunFolder(tmp_path).mark("INTERRUPTED", "the disk is full")
    assert (tmp_path / "INTERRUPTED").read_bytes() == b""
    monkeypatch.setattr(Path, "touch", full)
    RunFolder(tmp_path).mark("FAILED", "why")  # not even that: then no marker says anything
    assert not list(tmp_path.iterdir())


def test_a_run_at_work_has_no_marker(tmp_path):
    fill(tmp_path, ("INTERRUPTED", "FAILED", "plan.toml"))
    RunFolder(tmp_path).unmark()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]


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
def test_what_can_go_on_was_begun_and_is_not_over(tmp_path, names, can):
    fill(tmp_path, names)
    run = RunFolder(tmp_path)
    assert run.is_resumable == can
    assert run.resume_command == (
        f"`warmstart resume {tmp_path}`" if can else "the same command again"
    )


def test_large_files_are_written_piece_by_piece(tmp_path):
    write_chunks(tmp_path / "a", (bytes([n]) * 3 for n in range(3)))
    assert (tmp_path / "a").read_bytes() == b"\0\0\0\1\1\1\2\2\2"

    def torn():
        yield b"half"
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_chunks(tmp_path / "a", torn())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len((tmp_path / "a").read_bytes()) == 9


def test_a_record_of_many_examples_never_lies_in_memory_as_text(tmp_path):
    """And its file is what the record as a whole would give."""
    n = 8000
    examples = tuple(
        Example(id=f"photos/{k}.jpg", label="cat", split="train", sha256=f"{k:064x}")
        for k in range(n)
    )
    record = records_data.DataRecord(
        name="photos",
        kind="image",
        task="classify",
        layout="",
        classes=("cat",),
        examples=examples,
    )
    tracemalloc.start()
    write_json(tmp_path / "data.json", record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = (tmp_path / "data.json").read_text()
    assert written == json.dumps(to_plain(record), indent=2) + "\n"
    assert peak < len(written) / 3
    assert read_json(tmp_path / "data.json", records_data.DataRecord) == record
