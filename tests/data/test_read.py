"""Every layout gives the same index; every mistake a user makes gets one helpful line."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmstart.data.dataset import Collection
from warmstart.data.read import STAMPS, read, read_for_scoring
from warmstart.errors import DataError
from warmstart.events import drain

REAL = Path(__file__).parents[2].parent / "shared/data/images"


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value % 256, value // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: Path, sizes: dict[str, int], start: int = 0) -> Path:
    """Make `sizes[folder]` images in each folder below root, all different."""
    for folder, n in sizes.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(n):
            start += 1
            (root / folder / f"{index}.png").write_bytes(png(start))
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", {"cat": 3, "dog": 2})


def labels(collection: Collection) -> list[tuple[str, str, str]]:
    return [(e.id, e.label, e.split) for e in collection.record.examples]


# --- layouts -------------------------------------------------------------------------------


def test_class_folders(photos):
    fill(photos, {"cat/old/black": 1}, start=50)
    collection = drain(read(photos))
    assert labels(collection) == [
        ("cat/0.png", "cat", "train"),
        ("cat/1.png", "cat", "train"),
        ("cat/2.png", "cat", "train"),
        ("cat/old/black/0.png", "cat", "train"),
        ("dog/0.png", "dog", "train"),
        ("dog/1.png", "dog", "train"),
    ]
    assert collection.record.classes == ("cat", "dog")
    assert collection.record.name == "photos"
    assert collection.record.problems == ()


def test_load_gives_the_bytes_that_were_hashed(photos):
    collection = drain(read(str(photos)))
    for example in collection.record.examples:
        payload = collection.load(example.id)
        assert payload == (photos / example.id).read_bytes()
        assert hashlib.sha256(payload).hexdigest() == example.sha256


@pytest.mark.parametrize("word", ["val", "Valid", "validation", "DEV"])
def test_train_holdout_test_folders(tmp_path, word):
    fill(tmp_path, {"Train/a": 2, "Train/b": 2, f"{word}/a": 1, "TEST/b/deep": 1})
    splits = {(label, split) for _, label, split in labels(drain(read(tmp_path)))}
    assert splits == {("a", "train"), ("b", "train"), ("a", "holdout"), ("b", "test")}


def test_train_is_a_class_beside_bus_and_car(tmp_path):
    fill(tmp_path, {"bus": 2, "car": 2, "train": 2})
    assert drain(read(tmp_path)).record.classes == ("bus", "car", "train")


def test_train_alone_holds_the_class_folders(tmp_path):
    fill(tmp_path, {"train/a": 2, "train/b": 2})
    assert drain(read(tmp_path)).record.classes == ("a", "b")


def test_a_root_that_is_a_link_is_followed(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    assert labels(drain(read(tmp_path / "link"))) == labels(drain(read(photos)))


def test_clutter_and_other_files_are_ignored(photos):
    before = labels(drain(read(photos)))
    for clutter in (".git", "__MACOSX/cat", "cat/.ipynb_checkpoints"):
        fill(photos, {clutter: 1}, start=70)
    (photos / "cat/Thumbs.db").write_bytes(b"x")
    (photos / "notes.txt").write_text("x")
    collection = drain(read(photos))
    assert labels(collection) == before
    assert collection.record.layout == "class folders (1 other file ignored)"


def test_one_spelling_of_an_accent_in_train_and_test(tmp_path):
    fill(tmp_path, {"train/caf\u00e9": 2, "train/b": 2, "test/cafe\u0301": 1})
    assert drain(read(tmp_path)).record.classes == ("b", "caf\u00e9")


def test_another_source_becomes_the_test_set(photos, tmp_path):
    other = fill(tmp_path / "other", {"cat": 1}, start=90)
    collection = drain(read(photos, test=other))
    assert labels(collection)[-1] == ("test/cat/0.png", "cat", "test")
    assert collection.load("test/cat/0.png") == (other / "cat/0.png").read_bytes()
    assert collection.load("cat/0.png") == (photos / "cat/0.png").read_bytes()


def test_ids_stay_unique_when_the_source_has_a_folder_called_test(tmp_path):
    source = fill(tmp_path / "source", {"test/b": 2, "b": 2})
    collection = drain(read(source, test=fill(tmp_path / "other", {"b": 1}, start=9)))
    ids = [id for id, _, _ in labels(collection)]
    assert len(set(ids)) == len(ids) == 5
    assert collection.load("test/b/0.png") == (source / "test/b/0.png").read_bytes()
    assert collection.load(ids[-1]) == (tmp_path / "other/b/0.png").read_bytes()


def test_sample_digits():
    collection = drain(read("sample:digits"))
    record = collection.record
    assert len(record.examples) == 1797
    assert record.classes == tuple("0123456789")
    assert collection.title == "1,797 scans of handwritten digits (scikit-learn)"
    image = Image.open(io.BytesIO(collection.load(record.examples[0].id)))
    assert (image.mode, image.size, image.getextrema()[1]) == ("L", (8, 8), 239)  # 15 of 16


def test_paths_and_labels(photos):
    paths = sorted(photos.rglob("*.png"))
    collection = drain(read((paths, [path.parent.name for path in paths])))
    assert collection.record.classes == ("cat", "dog")
    assert collection.load(paths[0].as_posix()) == paths[0].read_bytes()


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 5, 1), (4, 3, 5, 3)])
def test_arrays_load_as_npy(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    collection = drain(read((pixels, [0, 1, 0, 1])))
    assert labels(collection)[1] == ("1", "1", "train")
    for index in range(4):
        np.testing.assert_array_equal(
            np.load(io.BytesIO(collection.load(str(index))), allow_pickle=False), pixels[index]
        )


def test_float_arrays_are_scaled_by_one_rule_for_all_rows():
    pixels = np.zeros((4, 2, 2))
    pixels[3] = 200.0
    pixels[0] = 1.0  # dark, not white: the array as a whole runs to 200
    collection = drain(read((pixels, list("abab"))))
    assert np.load(io.BytesIO(collection.load("0"))).max() == 1


def test_events_begin_step_and_end():
    pixels = np.random.default_rng(0).integers(0, 256, (1001, 2, 2), np.uint8)
    events = list(read((pixels, np.arange(1001) % 2)))
    assert [event.kind for event in events] == ["begin", "step", "step", "step", "end"]
    assert {event.stage for event in events} == {"read"}
    assert events[-1].values == {"examples": 1001, "classes": 2}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not on this machine")
def test_real_photographs():
    collection = drain(read(REAL / "ants_bees"))
    assert len(collection.record.classes) == 2
    assert {e.split for e in collection.record.examples} == {"train", "test"}
    n_files = sum(path.is_file() for path in (REAL / "ants_bees").rglob("*.jpg"))
    assert len(collection.record.examples) == n_files


# --- files that are left out, and said so -----------------------------------------------------


@pytest.mark.usefixtures("any_share")
def test_links_inside_are_followed_links_outside_are_reported(photos, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(99))
    (photos / "cat/in.png").symlink_to(photos / "dog/0.png")
    (photos / "cat/out.png").symlink_to(outside)
    (photos / "cat/lost.png").symlink_to(tmp_path / "nowhere.png")
    (photos / "cat/loop").symlink_to(photos)
    collection = drain(read(photos))
    ids = {id for id, _, _ in labels(collection)}
    assert ids >= {"cat/in.png"}
    assert len(ids) == 6
    (finding,) = collection.record.problems
    assert finding.kind == "unreadable"
    assert [item.split(":")[0] for item in finding.items] == [
        "cat/loop",
        "cat/lost.png",
        "cat/out.png",
    ]


@pytest.mark.usefixtures("any_share")
def test_images_beside_class_folders_and_foreign_kinds_are_reported(photos):
    (photos / "stray.png").write_bytes(png(98))
    (photos / "cat/phone.HEIC").write_bytes(b"x")
    problems = drain(read(photos)).record.problems
    assert [finding.items for finding in problems] == [
        ("stray.png: lies in no class folder",),
        ("cat/phone.HEIC: .heic is not read; save it as JPEG or PNG",),
    ]


@pytest.mark.usefixtures("any_share")
def test_a_file_that_vanishes_while_reading_is_reported(photos):
    steps = read(photos)
    next(steps), next(steps)  # listed, nothing read yet
    (photos / "cat/0.png").unlink()
    collection = drain(steps)
    assert collection.record.problems[0].items[0].startswith("cat/0.png: cannot be read")
    assert len(collection.record.examples) == 4


@pytest.mark.usefixtures("any_share")
def test_a_file_over_the_limit_is_reported(photos, monkeypatch):
    monkeypatch.setattr("warmstart.data.place.MAX_FILE_BYTES", 200)
    (photos / "cat/big.png").write_bytes(bytes(201))
    (finding,) = drain(read(photos)).record.problems
    assert finding.items == ("cat/big.png: is larger than 512 MB",)


# --- mistakes -------------------------------------------------------------------------------


def fails(source, *parts: str, **options) -> None:
    with pytest.raises(DataError) as caught:
        drain(read(source, **options))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_missing_folder_suggests_the_nearest(photos):
    fails(photos.parent / "photo", "photo does not exist", "did you mean", "photos?")


def test_a_missing_parent_is_named(tmp_path):
    fails(tmp_path / "no/such/place", "/no is missing", "check the spelling")


def test_an_empty_name_is_not_the_current_folder():
    fails("", "empty name")


def test_a_broken_root_link(tmp_path):
    (tmp_path / "data").symlink_to(tmp_path / "gone")
    fails(tmp_path / "data", "is a link that leads nowhere")


def test_an_empty_folder(tmp_path):
    fails(tmp_path, "is empty", "in their own folder")


def test_a_folder_of_links_only_says_why_it_is_empty(photos, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links/cat").symlink_to(photos / "cat")
    fails(tmp_path / "links", "is empty (1 link in", "not followed")


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    fails(tmp_path, "holds no image", ".txt", "JPEG")


def test_images_without_class_folders(tmp_path):
    fill(tmp_path, {".": 12})
    fails(tmp_path, "holds 12 images but no class folders; put each class in its own folder")


def test_one_class_only(tmp_path):
    fill(tmp_path, {"cat": 5})
    fails(tmp_path, 'one class ("cat")', "each class in its own folder")


def test_a_class_with_one_image(photos):
    fill(photos, {"hat": 1}, start=60)
    fails(photos, f"{photos}/hat has 1 training image", "Add one or remove the folder.")


def test_many_classes_with_one_image(tmp_path):
    fill(tmp_path, {"a": 1, "b": 1, "c": 2})
    fails(tmp_path, "2 of 3 classes have 1 training image (a, b)")


def test_a_class_folder_without_images(photos):
    (photos / "hat").mkdir()
    shutil.rmtree(photos / "dog")
    fails(photos, "photos/hat holds no image", "remove the folder")


@pytest.mark.usefixtures("any_share")
def test_an_empty_folder_beside_two_classes_is_left_out(photos):
    (photos / "hat").mkdir()
    record = drain(read(photos)).record
    assert record.classes == ("cat", "dog")
    assert record.problems[0].items == ("hat: holds no image",)


def test_a_class_folder_with_other_kinds_only(photos):
    (photos / "hat").mkdir()
    (photos / "hat/a.heic").write_bytes(b"x")
    shutil.rmtree(photos / "dog")
    fails(photos, "photos/hat holds only files of other kinds (.heic)")


@pytest.mark.parametrize(("folder", "word"), [("test", "test"), ("val", "hold-out")])
def test_a_label_that_train_does_not_know(tmp_path, folder, word):
    fill(tmp_path, {"train/a": 2, "train/b": 2, f"{folder}/c": 3})
    fails(tmp_path, f'the {word} set has the class "c" (3 images)', "Training classes: a, b.")


def test_a_test_folder_without_classes(tmp_path):
    fill(tmp_path, {"train/a": 2, "train/b": 2, "test": 3})
    fails(tmp_path, "test holds 3 images but no class folders")


def test_sets_without_train(tmp_path):
    fill(tmp_path, {"test/a": 2, "val/b": 2})
    fails(tmp_path, "test/ and ", "val/ but no train/")


def test_a_folder_beside_the_splits(tmp_path):
    fill(tmp_path, {"train/a": 2, "test/a": 2, "extra/a": 2})
    fails(tmp_path, "but also extra/, which is not a split; move it elsewhere")


def test_label_for_a_folder(photos):
    fails(photos, "--label kind names a column", "is not a table", label="kind")
    fails(photos, "--group user names a column", group="user")


def test_two_test_sets(tmp_path, photos):
    both = fill(tmp_path / "both", {"train/cat": 2, "train/dog": 2, "test/cat": 1}, start=30)
    fails(both, "has a test set already; drop --test", test=photos)
    fails(photos, "named with --test, has several splits", test=both)


def test_a_single_image(photos):
    fails(photos / "cat/0.png", "is one file; name the folder")


def test_an_unsupported_kind(tmp_path):
    (tmp_path / "data.mat").write_bytes(b"x")
    fails(tmp_path / "data.mat", "not read (.mat)", ".csv, .tsv, .jsonl, .parquet, .zip")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("labels.xlsx", "save the sheet as CSV"),
        ("labels.json", "write one object a line and call it .jsonl"),
        ("data-00000-of-00001.arrow", "name the folder that `save_to_disk` wrote"),
        ("photos.7z", "unpack it"),
        ("photos.tar.xz", "unpack it"),
    ],
)
def test_kinds_that_are_one_step_away(tmp_path, name, cure):
    (tmp_path / name).write_bytes(b"x")
    fails(tmp_path / name, f"of a kind that is not read (.{name.split('.')[-1]}); {cure}, or name")


def test_a_web_address():
    fails("https://example.org/photos.zip", "is a web address; download it")


@pytest.mark.skipif(not STAMPS.is_dir(), reason=f"{STAMPS} is not there")
def test_sample_stamps():
    collection = drain(read("sample:stamps"))
    assert {"birds", "fruit"} <= set(collection.record.classes)
    assert collection.load(collection.record.examples[0].id)[:4] == b"\x89PNG"


def test_stamps_that_are_not_installed_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("warmstart.data.read.STAMPS", tmp_path)
    fails("sample:stamps", "tuxpaint-stamps-default", "sample:digits")


def test_an_unknown_sample():
    fails("sample:pets", "no sample:pets", "sample:digits")


@pytest.mark.parametrize("source", [None, 7, ["a", "b"], {"a": 1}])
def test_types_that_are_no_data(source):
    fails(source, f"type {type(source).__name__} is not read; give a path or arrays (X, y)")


@pytest.mark.skipif(os.name != "posix", reason="needs odd file names")
@pytest.mark.usefixtures("any_share")
def test_a_name_that_is_not_utf8(photos):
    odd = os.fsencode(photos / "cat") + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(png(80))
    except OSError:
        pytest.skip("this file system refuses such names")
    record = drain(read(photos)).record
    assert record.problems[0].items == ("cat/caf\\udce9.png: its name is not UTF-8",)


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_a_pipe_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    fails(tmp_path / "pipe", "neither a file nor a folder")


@pytest.mark.usefixtures("any_share")
def test_a_folder_that_cannot_be_listed(photos, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (photos / "hat").mkdir()
    for number in range(2):
        (photos / f"hat/{number}.png").write_bytes(png(90 + number))
    record = drain(read(photos)).record
    assert record.problems[0].items == ("cat: cannot be listed (Permission denied)",)
    assert record.classes == ("dog", "hat")


def test_a_folder_that_cannot_be_listed_itself(photos, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    fails(photos, "photos cannot be listed (Permission denied)", "change its permissions")


# --- mistakes with arrays ---------------------------------------------------------------------

X = np.zeros((4, 3, 3), np.uint8)
Y = ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("images", "targets", "part"),
    [
        (X, Y[:3], "X has 4 rows, y has 3"),
        (X[0], Y, "X has shape (3, 3); images are"),
        (np.zeros((4, 9)), Y, "X has shape (4, 9); images are"),
        (np.zeros((4, 3, 32, 3), np.uint8), Y, "whose channels may be first or last; pad the"),
        (np.zeros((4, 8, 8, 14), np.uint8), Y, "of 1 to 13 channels"),
        (X[:, :0], Y, "is empty"),
        (np.full((4, 3, 3), np.nan), Y, "X holds NaN or infinity"),
        (np.full((4, 3, 3), np.inf), Y, "X holds NaN or infinity"),
        (np.full((4, 3, 3), -1.5), Y, "values from -1.5 to -1.5; give 0 to 1 or 0 to 255"),
        (np.full((4, 3, 3), 300), Y, "values from 300 to 300"),
        (X.astype(complex), Y, "X holds complex128 values"),
        (np.array([None] * 4), Y, "X holds objects"),
        ([np.zeros((2, 2)), np.zeros((3, 3))], Y[:2], "different shapes"),
        (
            X,
            np.eye(4),
            "y has shape (4, 4)",
        ),
        (X, [0.0, 1.0, float("nan"), 1.0], "y[2] is nan"),
        (X, [0.5, 1, 2, 3], "y[0] is 0.5; class labels are texts or whole numbers"),
        (X, np.array(["a", None, "b", "b"], object), "y[1] is None, which is not a label"),
        (X, ["a", " ", "b", "b"], "y[1] is ' ', which is not a label"),
        (X, ["a"] * 4, 'y has one class ("a")'),
        (X, ["a", "a", "a", "b"], 'y: class "b" has 1 training image'),
        (["no.png", "nor.png"], ["a", "b"], "2 of 2 files not found (first: no.png)"),
    ],
)
def test_arrays_that_do_not_fit(images, targets, part):
    fails((images, targets), part)


def test_one_path_twice(photos):
    path = str(photos / "cat/0.png")
    fails(([path, path], ["a", "b"]), "twice; keep one row per file")


def test_whole_floats_are_labels():
    assert drain(read((X, [1.0, 2.0, 1.0, 2.0]))).record.classes == ("1", "2")


# --- images to score --------------------------------------------------------------------------


def test_only_the_test_set_is_scored_if_there_is_one(tmp_path):
    source = fill(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1})
    examples = drain(read_for_scoring(source, ("a", "b", "c"))).record.examples
    assert [(e.id, e.split) for e in examples] == [("test/a/0.png", "test")]


def test_images_to_score_of_an_unknown_class(photos):
    with pytest.raises(DataError, match="has the class 'dog', which this model does not know"):
        drain(read_for_scoring(photos, ("cat", "cow")))
