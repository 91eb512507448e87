"""An export stands in its place whole, or not at all; nothing there is ever overwritten."""

import os

import pytest

from warmstart.errors import UsageError
from warmstart.exporting.export import free_folder, staged


def test_the_default_is_in_the_run_and_numbered(tmp_path):
    assert free_folder(tmp_path, "onnx", None) == tmp_path / "export" / "onnx"
    for name in ("onnx", "onnx-2"):
        (tmp_path / "export" / name).mkdir(parents=True)
        (tmp_path / "export" / name / "a").touch()
    assert free_folder(tmp_path, "onnx", None) == tmp_path / "export" / "onnx-3"


def test_a_place_in_use_is_refused(tmp_path):
    used, file, link = tmp_path / "used", tmp_path / "file", tmp_path / "link"
    used.mkdir()
    (used / "a").touch()
    file.touch()
    (tmp_path / "empty").mkdir()
    link.symlink_to(tmp_path / "empty")
    for place in (used, file, link):
        with pytest.raises(UsageError, match="exists and is not empty; nothing was changed"):
            free_folder(tmp_path, "onnx", place)
    assert free_folder(tmp_path, "onnx", tmp_path / "empty") == tmp_path / "empty"


def test_the_name_of_a_file_is_answered_with_that_of_a_folder(tmp_path):
    with pytest.raises(UsageError, match=r"an export is a folder .* such as .*model-onnx\."):
        free_folder(tmp_path, "onnx", tmp_path / "model.onnx")


def test_what_was_made_is_moved_when_it_is_whole(tmp_path):
    place = tmp_path / "deep" / "place"
    with staged(place) as output:
        (output / "model").write_text("weights")
        assert not place.exists()
    assert (place / "model").read_text() == "weights"
    assert [p.name for p in place.parent.iterdir()] == ["place"]
    assert place.stat().st_mode & 0o777 == 0o777 & ~_umask()


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "place").mkdir()
    with staged(tmp_path / "place") as output:
        (output / "model").touch()
    assert (tmp_path / "place" / "model").exists()


def test_after_an_error_nothing_is_left(tmp_path):
    def fail():
        with staged(tmp_path / "place") as output:
            (output / "model").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_place_taken_meanwhile_is_left_as_it_is(tmp_path):
    place = tmp_path / "place"

    def race():
        with staged(place) as output:
            (output / "model").touch()
            place.mkdir()
            (place / "other").touch()

    with pytest.raises(UsageError, match=r"cannot be written .*; nothing was changed"):
        race()
    assert [p.name for p in tmp_path.rglob("*")] == ["place", "other"]


def test_a_file_as_parent_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"cannot be written .*; name another"),
        staged(tmp_path / "file" / "place"),
    ):
        pass


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
