"""Every layout gives the same index; every mistake a user makes gets one helpful line."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_files import GREYS, fails, paint, rows
from warmstart.data.place import read_file
from warmstart.data.read import STAMPS, read, read_for_scoring
from warmstart.errors import DataError
from warmstart.events import drain

REAL = Path(__file__).parents[2].parent / "shared/data/images"
X = np.zeros((4, 3, 3), np.uint8)


def fill(root: Path, start: int = 0, **sizes: int) -> Path:
    """Paint images in each folder below root, all different; `a__b` is the folder a/b."""
    names = [f"{k.replace('__', '/')}/{i}.png" for k, n in sizes.items() for i in range(n)]
    return paint(root, {name: start + grey for grey, name in enumerate(names)})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", cat=3, dog=2)


def left_out(record) -> list[str]:
    return [item for f in record.problems if f.kind == "unreadable" for item in f.items]


# ---- what is read ---------------------------------------------------------------------------


def test_class_folders(photos):
    fill(photos, 50, cat__old__black=1)
    collection = drain(read(str(photos)))
    record = collection.record
    cats = ["cat/0.png", "cat/1.png", "cat/2.png", "cat/old/black/0.png"]
    dogs = ["dog/0.png", "dog/1.png"]
    expected = [(id, "cat", "train") for id in cats] + [(id, "dog", "train") for id in dogs]
    assert rows(photos) == expected
    assert (record.classes, record.name, record.problems) == (("cat", "dog"), "photos", ())
    for example in record.examples:
        payload = collection.load(example.id)
        assert payload == (photos / example.id).read_bytes()
        assert hashlib.sha256(payload).hexdigest() == example.sha256
    (photos.parent / "link").symlink_to(photos)
    assert rows(photos.parent / "link") == expected


@pytest.mark.parametrize("word", ["val", "Valid", "validation", "DEV"])
def test_train_holdout_test_folders(tmp_path, word):
    fill(tmp_path, Train__a=2, Train__b=2, TEST__b__deep=1, **{f"{word}__a": 1})
    splits = {(label, split) for _, label, split in rows(tmp_path)}
    assert splits == {("a", "train"), ("b", "train"), ("a", "holdout"), ("b", "test")}


@pytest.mark.parametrize(
    ("sizes", "classes"),
    [
        ({"bus": 2, "car": 2, "train": 2}, ("bus", "car", "train")),  # train is a class too
        ({"train__a": 2, "train__b": 2}, ("a", "b")),
        ({"train__caf\u00e9": 2, "train__b": 2, "test__cafe\u0301": 1}, ("b", "caf\u00e9")),
    ],
)
def test_classes_of_folders(tmp_path, sizes, classes):
    assert drain(read(fill(tmp_path, **sizes))).record.classes == classes


def test_clutter_and_other_files_are_ignored(photos):
    before = rows(photos)
    for clutter in (".git", "__MACOSX/cat", "cat/.ipynb_checkpoints"):
        paint(photos, {f"{clutter}/0.png": 70})
    (photos / "cat/Thumbs.db").write_bytes(b"x")
    (photos / "notes.txt").write_text("x")
    assert rows(photos) == before
    assert drain(read(photos)).record.layout == "class folders (1 other file ignored)"


def test_another_source_becomes_the_test_set(tmp_path):
    source = fill(tmp_path / "source", test__b=2, b=2)  # a class called test
    other = fill(tmp_path / "other", 90, b=1)
    collection = drain(read(source, test=other))
    ids = [e.id for e in collection.record.examples]
    assert len(set(ids)) == 5
    assert (ids[-1], collection.record.examples[-1].split) == ("test/test/b/0.png", "test")
    assert collection.load("test/b/0.png") == (source / "test/b/0.png").read_bytes()
    assert collection.load(ids[-1]) == (other / "b/0.png").read_bytes()


def test_samples(tmp_path, monkeypatch):
    collection = drain(read("sample:digits"))
    record = collection.record
    assert (len(record.examples), record.classes) == (1797, tuple("0123456789"))
    image = Image.open(io.BytesIO(collection.load(record.examples[0].id)))
    assert (image.mode, image.size, image.getextrema()[1]) == ("L", (8, 8), 239)  # 15 of 16
    fails("sample:pets", "no sample:pets", "sample:digits")
    if STAMPS.is_dir():
        collection = drain(read("sample:stamps"))
        assert {"birds", "fruit"} <= set(collection.record.classes)
        assert collection.load(collection.record.examples[0].id)[:4] == b"\x89PNG"
    monkeypatch.setattr("warmstart.data.read.STAMPS", tmp_path)
    fails("sample:stamps", "tuxpaint-stamps-default", "sample:digits")


def test_events_begin_step_and_end():
    pixels = np.random.default_rng(0).integers(0, 256, (1001, 2, 2), np.uint8)
    events = list(read((pixels, np.arange(1001) % 2)))
    assert [event.kind for event in events] == ["begin", "step", "step", "step", "end"]
    assert {event.stage for event in events} == {"read"}
    assert events[-1].values == {"examples": 1001, "classes": 2}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not on this machine")
def test_real_photographs():
    record = drain(read(REAL / "ants_bees")).record
    assert (len(record.classes), {e.split for e in record.examples}) == (2, {"train", "test"})
    assert len(record.examples) == len([*(REAL / "ants_bees").rglob("*.jpg")])


def test_only_the_test_set_is_scored_if_there_is_one(tmp_path):
    source = fill(tmp_path, train__a=2, train__b=2, test__a=1)
    examples = drain(read_for_scoring(source, ("a", "b", "c"))).record.examples
    assert [(e.id, e.split) for e in examples] == [("test/a/0.png", "test")]
    with pytest.raises(DataError, match="has the class 'b', which this model does not know"):
        drain(read_for_scoring(fill(tmp_path / "other", a=1, b=1), ("a", "c")))


# ---- what is left out: up to a tenth of the data; --strict refuses the first ------------------


@pytest.fixture
def forty(tmp_path):
    """40 images in two classes."""
    return paint(tmp_path / "photos", {f"{'ab'[n % 2]}/{n:02d}.png": n for n in range(40)})


def break_one(photos: Path, how: str) -> str:
    """Add something that cannot be read; returns what it is listed as."""
    if how == "pipe":
        os.mkfifo(photos / "a/pipe.png")
        return "a/pipe.png: is a named pipe, which is not opened"
    if how == "socket":
        os.chdir(photos / "a")  # the name of a socket may have no more than 108 letters
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("s.png")
        return "a/s.png: is a socket, which is not opened"
    if how == "name":
        (photos / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
        return "a/caf\\udce9.png: its name is not UTF-8"
    if how == "odd folder":
        (photos / os.fsdecode(b"caf\xe9")).mkdir()
        return "caf\\udce9: its name is not UTF-8"
    if how == "folder":
        (photos / "empty").mkdir()
        return "empty: holds no image"
    if how == "foreign":
        (photos / "a/phone.HEIC").write_bytes(b"x")
        return "a/phone.HEIC: .heic is not read; save it as JPEG or PNG"
    if how == "loop":
        (photos / "a/loop").symlink_to(photos)
        return "a/loop: a link to a folder"
    if how == "out":
        (photos / "a/out.png").symlink_to(paint(photos.parent, {"secret.png": 9}) / "secret.png")
        return "a/out.png: a link that leads out of the data folder"
    (photos / "a/link.png").symlink_to(photos / "nowhere.png")
    return "a/link.png: a link that leads nowhere"


HOW = ["pipe", "socket", "name", "odd folder", "folder", "foreign", "loop", "out", "link"]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and names of any bytes")
@pytest.mark.parametrize("how", HOW)
def test_one_of_many_is_left_out_and_listed(forty, monkeypatch, how):
    monkeypatch.chdir(forty)
    (forty / "a/in.png").symlink_to(forty / "b/01.png")  # links inside are followed
    item = break_one(forty, how)
    record = drain(read(forty)).record
    assert (len(record.examples), left_out(record)) == (41, [item])
    fails(forty, "--strict: ", item, "drop --strict", strict=True)


def table(photos: Path, extra=()) -> Path:
    listed = [(f"{p.parent.name}/{p.name}", p.parent.name) for p in sorted(photos.glob("*/*.png"))]
    with open(photos / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *listed, *extra])
    return photos / "labels.csv"


@pytest.mark.parametrize(
    ("path", "why"),
    [("a/none.png", "is not there"), ("", "has no path"), ("http://a.b/c.png", "is a web address")],
)
def test_one_missing_path_of_a_table_is_left_out_and_listed(forty, path, why):
    source = table(forty, [(path, "a")])
    record = drain(read(source)).record
    assert len(record.examples) == 40
    assert left_out(record)[0].startswith(f"{path} (line 42): {why}")
    fails(source, "--strict", strict=True)


def test_more_than_a_tenth_is_an_error(forty):
    for number in range(4):
        (forty / f"a/{number:02d}x.png").symlink_to(forty / "nowhere.png")
    assert len(rows(forty)) == 40
    (forty / "a/9x.png").symlink_to(forty / "nowhere.png")
    fails(forty, "5 of 45 cannot be read (first: a/00x.png: a link that")
    source = table(forty, [(f"a/none-{number}.png", "a") for number in range(5)])
    fails(source, "10 of 50 files not found (first: a/00x.png, line")


def test_what_is_no_loss_is_not_counted_in_the_tenth(forty):
    """Images without a label, drawings without pixels."""
    for number in range(20):
        (forty / f"{number}.png").write_bytes((forty / "a/00.png").read_bytes())
        (forty / "a" / f"{number}.svg").write_text("<svg/>")
    record = drain(read(forty)).record
    assert len(record.examples) == 40
    assert sum(".svg is not read" in item for item in left_out(record)) == 20
    assert "0.png: lies in no class folder" in left_out(record)
    fails(forty, "--strict", strict=True)


@pytest.mark.usefixtures("any_share")
def test_files_that_vanish_or_are_too_large_are_reported(photos, monkeypatch):
    steps = read(photos)
    next(steps), next(steps)  # listed, nothing read yet
    (photos / "cat/0.png").unlink()
    record = drain(steps).record
    assert left_out(record)[0].startswith("cat/0.png: cannot be read")
    assert len(record.examples) == 4
    monkeypatch.setattr("warmstart.data.place.MAX_FILE_BYTES", 200)
    (photos / "cat/big.png").write_bytes(bytes(201))
    assert left_out(drain(read(photos)).record) == ["cat/big.png: is larger than 512 MB"]


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("name", ["cat", "photos"])
def test_a_folder_that_cannot_be_listed(photos, monkeypatch, name):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    fill(photos, 90, hat=2)
    if name == "photos":
        return fails(photos, "photos cannot be listed (Permission denied)", "change its perm")
    record = drain(read(photos)).record
    assert left_out(record)[0] == "cat: cannot be listed (Permission denied)"
    assert record.classes == ("dog", "hat")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    fails(tmp_path / "pipe", "neither a file nor a folder")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DataError, match="which is not opened"):
            read_file(path)


# ---- mistakes -------------------------------------------------------------------------------


def test_places_that_are_none(photos, tmp_path):
    fails(photos.parent / "photo", "photo does not exist", "did you mean", "photos?")
    fails(tmp_path / "no/such/place", "/no is missing", "check the spelling")
    fails("", "empty name")
    fails("https://example.org/photos.zip", "is a web address; download it")
    fails(photos / "cat/0.png", "is one file; name the folder")
    (tmp_path / "data").symlink_to(tmp_path / "gone")
    fails(tmp_path / "data", "is a link that leads nowhere")
    (tmp_path / "links").mkdir()
    fails(tmp_path / "links", "is empty", "in their own folder")
    (tmp_path / "links/cat").symlink_to(photos / "cat")
    fails(tmp_path / "links", "is empty (1 link in", "not followed")
    (tmp_path / "links/a.txt").write_text("x")
    fails(tmp_path / "links", "holds no image", ".txt", "JPEG")


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ({"cat": 5}, ['one class ("cat")', "each class in its own folder"]),
        ({"a": 3, "hat": 1}, ["/hat has 1 training image", "Add one or remove the folder."]),
        ({"a": 1, "b": 1, "c": 2}, ["2 of 3 classes have 1 training image (a, b)"]),
        (
            {"train__a": 2, "train__b": 2, "test__c": 3},
            ['the test set has the class "c" (3 images)', "Training classes: a, b."],
        ),
        ({"train__a": 2, "train__b": 2, "val__c": 3}, ['the hold-out set has the class "c"']),
        ({"train__a": 2, "train__b": 2, "test": 3}, ["test holds 3 images but no class folders"]),
        ({"test__a": 2, "val__b": 2}, ["test/ and ", "val/ but no train/"]),
        ({"train__a": 2, "test__a": 2, "extra__a": 2}, ["but also extra/, which is not a split"]),
    ],
)
def test_folders_that_do_not_fit(tmp_path, sizes, parts):
    fails(fill(tmp_path, **sizes), *parts)


def test_images_without_class_folders(tmp_path):
    paint(tmp_path, {f"{n}.png": n for n in range(12)})
    fails(tmp_path, "holds 12 images but no class folders; put each class in its own folder")


def test_a_class_folder_without_images(tmp_path):
    fill(tmp_path, cat=3)
    (tmp_path / "hat").mkdir()
    fails(tmp_path, "/hat holds no image", "remove the folder")
    (tmp_path / "hat/a.heic").write_bytes(b"x")
    fails(tmp_path, "/hat holds only files of other kinds (.heic)")


def test_options_that_do_not_fit(tmp_path, photos):
    fails(photos, "--label kind names a column", "is not a table", label="kind")
    fails(photos, "--group user names a column", group="user")
    both = fill(tmp_path / "both", 30, train__cat=2, train__dog=2, test__cat=1)
    fails(both, "has a test set already; drop --test", test=photos)
    fails(photos, "named with --test, has several splits", test=both)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("labels.xlsx", "save the sheet as CSV"),
        ("labels.json", "write one object a line and call it .jsonl"),
        ("data-00000-of-00001.arrow", "name the folder that `save_to_disk` wrote"),
        ("photos.tar.xz", "unpack it"),
        ("data.mat", ""),
    ],
)
def test_kinds_that_are_not_read(tmp_path, name, cure):
    (tmp_path / name).write_bytes(b"x")
    cure = cure and f"{cure}, or "
    fails(tmp_path / name, f"is not read (.{name.split('.')[-1]}); {cure}name a folder, .csv")


@pytest.mark.parametrize("source", [None, 7, ["a", "b"], {"a": 1}])
def test_types_that_are_no_data(source):
    fails(source, f"type {type(source).__name__} is not read; give a path or arrays (X, y)")


# ---- labels corrected by the user's own table -------------------------------------------------


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos")


def fixed(photos: Path, text: str, name: str = "fixed.csv") -> Path:
    path = photos.parent / name
    path.write_text(text)
    return path


def labels(photos: Path, text: str, **options) -> dict[str, str]:
    return {id: label for id, label, _ in rows(photos, relabel=fixed(photos, text), **options)}


def test_labels_are_overridden_and_others_stay(painted):
    text = "path,label,suggested,probability\na/1.png,b,b,0.93\nb/0.png,b,a,0.5\n"
    assert labels(painted, text) == {name: name[0] for name in GREYS} | {"a/1.png": "b"}
    record = drain(read(painted, relabel=str(painted.parent / "fixed.csv"))).record
    assert record.layout == "class folders; labels corrected by fixed.csv (1)"
    result = labels(painted, "path,label\na/0.png,c\na/1.png,c\na/2.png,b\n")
    assert sorted(result.values()) == list("bbbbcc")
    for name, text in (
        ("fixed.jsonl", '{"path": "a/1.png", "label": "b"}\n'),
        ("fixed.tsv", "path\tlabel\na/1.png\tb\n"),
    ):
        assert ("a/1.png", "b", "train") in rows(painted, relabel=fixed(painted, text, name))


@pytest.mark.parametrize("word", ["", "drop", " Drop ", "DROP"])
def test_rows_are_removed(painted, word):
    assert "a/1.png" not in labels(painted, f"label,path\n{word},a/1.png\n")


def test_a_class_called_drop_is_a_class(tmp_path):
    photos = fill(tmp_path / "photos", ink=4, drop=4)
    result = labels(photos, "path,label\nink/0.png,drop\nink/1.png,\ndrop/0.png,drop\n")
    assert result["ink/0.png"] == result["drop/0.png"] == "drop"
    assert "ink/1.png" not in result


def test_test_images_too(painted):
    assert labels(painted, "path,label\ntest/a/0.png,b\n", test=painted)["test/a/0.png"] == "b"
    relabel = fixed(painted, "path,label\ntest/a/0.png,c\n")
    fails(painted, 'the test set has the class "c"', test=painted, relabel=relabel)


def test_numbers_that_a_spreadsheet_has_shortened(painted):
    relabel = fixed(painted, "path,label\n00,b\n01,b\n2,a\n3,a\n")
    assert rows((X, list("abab")), relabel=relabel)[0][1] == "b"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "a/9.png,b\nc/9.png,b\na/0.png,b",
            ["fixed.csv: 2 of 3 paths not in ", "line 2); did you"],
        ),
        ("photos/b/2.png,a", ["1 of 1 path not in", "did you mean a/2.png"]),
        ("zzz,a", ["(first: zzz, line 2); give the paths as warmstart wrote them"]),
        (",a", ["(first: an empty path, line 2)"]),
        ("a/0.png,b\nb/0.png,a\na/0.png,b", ["fixed.csv names a/0.png in line 2 and line 4"]),
        ("a/0.png,bb", ['gives one training image the new class "bb"', "did you mean b?"]),
        ("a/0.png,zebra", ['new class "zebra"', "known are: a, b"]),
        ("a/0.png,\na/1.png,b", ["fixed.csv leaves ", "photos/a with 1 training image; a class"]),
        ("\n".join(f"a/{i}.png,drop" for i in range(3)), ['has one class ("b") and 2 are needed']),
    ],
)
def test_corrections_that_do_not_fit(painted, text, parts):
    fails(painted, *parts, relabel=fixed(painted, f"path,label\n{text}\n"))


def test_tables_of_corrections_that_do_not_fit(painted):
    (painted.parent / "folder.csv").mkdir()
    for relabel, part in (
        (fixed(painted, "path,to\na/0.png,b\n"), "looks like the label. It has: path, to."),
        (fixed(painted, "path,label\n", "no.csv"), "no.csv has no rows"),
        (
            fixed(painted, '{"path": "a/0.png", "label": ["a"]}', "fixed.jsonl"),
            'fixed.jsonl line 1: "label" is not a text or number; give one label',
        ),
        (painted.parent / "fixd.csv", "fixd.csv does not exist; did you mean"),
        (painted.parent / "folder.csv", "folder.csv cannot be read (Is a directory); change its"),
    ):
        fails(painted, part, relabel=relabel)


SETS = {"0": "red", "1": "dark red;blue", "2": "blue", "3": "", "4": "red", "5": "blue;dark red"}


def corrected(folder: Path, cells: dict[str, str], corrections: str, **options) -> dict[str, str]:
    """The labels of a table of six pictures once they were corrected."""
    paint(folder, {f"{name}.png": 10 + int(name) for name in cells})
    lines = "".join(f"{name}.png,{cell}\n" for name, cell in cells.items())
    (folder / "t.csv").write_text("path,label\n" + lines)
    return labels(folder / "t.csv", corrections, **options)


def test_several_labels_are_corrected_as_a_set(tmp_path):
    text = (
        "path,label,concerns\n0.png,dark red|blue,blue\n2.png,,blue\n4.png,drop,\n1.png,dark red,\n"
    )
    result = corrected(tmp_path, SETS, text, task="multilabel")
    assert [*result.values()] == ["blue|dark red", "dark red", "", "", "blue|dark red"]


def test_numbers_are_corrected(tmp_path):
    numbers = {str(n): f"{n}.5" for n in range(6)}
    text = "path,label\n0.png,7\n1.png,\n2.png,2.50\n"
    result = corrected(tmp_path, numbers, text, task="regress")
    assert result == {"0.png": "7"} | {f"{n}.png": f"{n}.5" for n in range(2, 6)}
    with pytest.raises(DataError, match=r'the label of 0\.png is "seven"'):
        corrected(tmp_path, numbers, "path,label\n0.png,seven\n", task="regress")
