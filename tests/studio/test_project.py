"""The studio's folder: what was done is there again, whatever happened in between."""

from __future__ import annotations

import csv
import io

import pytest

from server_client import png
from warmstart.errors import RunFolderError, UsageError
from warmstart_studio.board import Board, add_class, remove_class, rename_class, set_label
from warmstart_studio.project import NewPicture, Project, append, id_of, n_changed, read_lines


def arrived(number, split="train", group=None):
    name, payload = f"{number}.png", png((number, 0, 0))
    return NewPicture(name=name, payload=payload, suffix=".png", split=split, group=group)


@pytest.fixture
def project(tmp_path):
    result = Project.open(tmp_path / "p", "p")
    yield result
    result.close()


def again(project):
    """The same folder, opened by another process."""
    project.close()
    return Project.open(project.path, "p")


def fill(project, n=4, label="cat"):
    kept = project.add([arrived(number) for number in range(n)])
    ids = [picture.id for picture in kept]
    project.change(lambda board: set_label(board, ids, label))
    return ids


def test_pictures_labels_and_steps_are_there_again(project):
    ids = fill(project)
    project.change(lambda board: set_label(board, ids[:1], "dog"))
    project.undo()
    result = again(project)
    assert result.board == Board(("cat",), dict.fromkeys(ids, "cat"))
    assert result.history.version == 3
    assert [result.pictures[id].name for id in ids] == ["0.png", "1.png", "2.png", "3.png"]
    assert result.redo().labels == {ids[0]: "dog"}
    assert result.board.classes == ("cat", "dog")
    assert result.redo() is None
    result.close()


def test_undo_goes_back_to_the_very_beginning(project):
    fill(project)
    project.change(lambda board: remove_class(board, "cat"))
    while project.undo():
        pass
    assert project.board == Board()
    while project.redo():
        pass
    assert project.board == Board()  # the class went with its pictures
    assert project.history.version == 6
    project.undo()
    assert project.change(lambda board: add_class(board, "dog")).redo is None
    assert project.redo() is None  # a new step ends what could be redone


def test_what_a_kill_left_of_a_line_is_cut_off(project):
    ids = fill(project)
    with open(project.path / "changes.jsonl", "ab") as file:
        file.write(b'{"what": "moved 1 pict')
    result = again(project)
    assert result.history.version == 1
    result.change(lambda board: set_label(board, ids[:1], None))
    result = again(result)
    assert result.history.version == 2
    assert ids[0] not in result.board.labels
    result.close()


@pytest.mark.parametrize("rest", [b"", b"{", b"x" * 10_000])
def test_lines_are_whole_or_not_there(tmp_path, rest):
    path = tmp_path / "a.jsonl"
    append(path, [{"a": 1}, {"b": "ü"}])
    with open(path, "ab") as file:
        file.write(rest)
    append(path, [{"c": 3}])
    assert [line for _, line in read_lines(path)] == [{"a": 1}, {"b": "ü"}, {"c": 3}]


def test_a_folder_that_is_open_or_of_something_else_is_left_alone(project, tmp_path):
    with pytest.raises(RunFolderError, match="another studio is open"):
        Project.open(project.path, "p")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds something else"):
        Project.open(tmp_path / "else", "p")
    assert [one.name for one in (tmp_path / "else").iterdir()] == ["mine.txt"]


def test_the_same_bytes_twice_are_two_pictures_where_a_data_set_has_them_twice(project):
    first, second = project.add([arrived(1), arrived(1)])
    assert first.id != second.id
    assert [one.id for one in project.find(png((1, 0, 0)))] == [first.id, second.id]
    assert project.find(png((2, 0, 0))) == []
    assert project.picture_path(second.id).read_bytes() == png((1, 0, 0))


def test_the_table_of_a_run(project):
    kept = project.add([arrived(1), arrived(2, "test"), arrived(3, "holdout", "g")])
    project.change(lambda board: set_label(board, [one.id for one in kept], "cat, or dog"))
    number, path = project.write_table()
    assert (number, path.name) == (1, "board-1.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["split"] for row in rows] == ["train", "test", "val"]
    assert [row["group"] for row in rows] == ["", "", "g"]
    assert {row["label"] for row in rows} == {"cat, or dog"}
    assert all((project.path / row["path"]).exists() for row in rows)
    assert [id_of(row["path"]) for row in rows] == [one.id for one in kept]
    assert project.write_table()[0] == 2


def test_how_many_changes_a_run_has_not_learnt():
    board = Board(("cat", "dog"), {"a": "cat", "b": "dog", "c": "cat"})
    assert n_changed({"a": "cat", "b": "dog", "c": "cat"}, board) == 0
    assert n_changed({"a": "dog", "b": "dog", "d": "cat"}, board) == 3


# ---- What goes wrong.


def test_a_step_that_could_not_be_written_was_not_made(project, monkeypatch):
    ids = fill(project)

    def full(number):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        for step in (project.undo, lambda: project.change(lambda b: set_label(b, ids, "dog"))):
            with pytest.raises(OSError, match="No space"):
                step()
    assert project.board.labels == dict.fromkeys(ids, "cat")
    assert again(project).board.labels == dict.fromkeys(ids, "cat")


def test_pictures_that_could_not_be_written_down_are_not_there(project, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("warmstart_studio.project.append", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            project.add([arrived(1)])
    assert project.pictures == {}
    (one,) = project.add([arrived(1)])
    assert "-" not in one.id


@pytest.mark.parametrize(
    ("name", "line", "number"),
    [
        ("changes.jsonl", b"\0\0\0", 2),
        ("changes.jsonl", b"[1]", 2),
        ("changes.jsonl", b'{"undo": true}\n{"undo": true}', 3),
        ("changes.jsonl", b"{}", 2),
        ("pictures.jsonl", b'{"id": 3}', 5),
        ("pictures.jsonl", b"x", 5),
    ],
)
def test_a_damaged_line_is_named(project, name, line, number):
    fill(project)
    with open(project.path / name, "ab") as file:
        file.write(line + b"\n")
    project.close()
    with pytest.raises(RunFolderError, match=rf"{name}, line {number} is damaged .* remove"):
        Project.open(project.path, "p")
    Project.open(project.path.parent / "other", "p").close()


def test_a_list_of_pictures_that_is_gone_is_missed(project):
    fill(project)
    project.close()
    (project.path / "pictures.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"which pictures\.jsonl does not list"):
        Project.open(project.path, "p")


def test_a_picture_whose_file_is_gone_is_named_before_anything_is_learnt(project):
    ids = fill(project)
    project.picture_path(ids[1]).unlink()
    with pytest.raises(UsageError, match=r"1\.png is missing from .*pictures; take it off the"):
        project.write_table()


def test_a_project_of_other_data_is_not_opened_for_these(tmp_path):
    Project.open(tmp_path / "p", "p", "/a/photos").close()
    Project.open(tmp_path / "p", "p", "/a/photos").close()
    Project.open(tmp_path / "p", "other").close()
    with pytest.raises(UsageError, match="was created from /a/photos, not from /b/photos"):
        Project.open(tmp_path / "p", "p", "/b/photos")
    Project.open(tmp_path / "q", "q").close()
    with pytest.raises(UsageError, match="was created without data, not from /b/photos"):
        Project.open(tmp_path / "q", "q", "/b/photos")


def test_its_name_is_kept_and_a_later_format_is_not_guessed_at(project):
    project.close()
    again = Project.open(project.path, "untitled")
    assert again.about.name == "p"
    again.close()
    (project.path / "project.json").write_text('{"name": "p", "source": "", "format": 2}')
    with pytest.raises(RunFolderError, match="made by a later version"):
        Project.open(project.path, "p")


def test_a_picture_off_the_board_may_change_its_part(project):
    (one,) = project.add([arrived(1)])
    project.set_split(one.id, "test")
    result = again(project)
    assert result.pictures[one.id].split == "test"
    assert len(result.find(png((1, 0, 0)))) == 1
    result.close()


def test_what_runs_called_a_class_is_known_by_its_present_name(project):
    fill(project, label="dog")
    project.write_table()
    project.change(lambda board: rename_class(board, "dog", "hound"))
    project.write_table()
    project.change(lambda board: rename_class(board, "hound", "wolf"))
    opened = again(project)
    for name in ("wolf", "hound", "dog"):
        assert opened.history.name_of("dog", 1) == name
        assert opened.history.name_of("hound", 2) == ("wolf" if name == "wolf" else name)
        opened.undo()
    opened.close()
