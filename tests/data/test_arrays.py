"""Arrays, DataFrames and data sets of torchvision read as the folder or table that they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from image_files import fails, paint, rows
from warmstart.data.read import read, read_for_scoring
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.modalities.image import decode

X, Y = np.zeros((4, 3, 3), np.uint8), ["a", "b", "a", "b"]
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 9, 9, 3), dtype=np.uint8)
NUMBERS = [n % 3 for n in range(12)]
UNEVEN = [Image.fromarray(one[: 5 + n % 3]) for n, one in enumerate(PIXELS)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos")


def shown(collection, id):
    return np.asarray(decode(collection.load(id), id))


# ---- arrays and lists -------------------------------------------------------------------------


def test_paths_and_labels(photos):
    paths = sorted(photos.rglob("*.png"))
    collection = drain(read((paths, [path.parent.name for path in paths])))
    assert collection.record.classes == ("a", "b")
    assert collection.load(paths[0].as_posix()) == paths[0].read_bytes()
    fails(([str(paths[0])] * 2, ["a", "b"]), "twice; keep one row per file")


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 5, 1), (4, 3, 5, 3)])
def test_arrays_load_as_npy(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    collection = drain(read((pixels, [0.0, 1.0, 0.0, 1.0])))  # whole floats are labels
    assert [(e.id, e.label) for e in collection.record.examples] == list(
        zip("0123", "0101", strict=True)
    )
    for index in range(4):
        stored = np.load(io.BytesIO(collection.load(str(index))), allow_pickle=False)
        np.testing.assert_array_equal(stored, pixels[index])


def test_float_arrays_are_scaled_by_one_rule_for_all_rows():
    pixels = np.zeros((4, 2, 2))
    pixels[3] = 200.0
    pixels[0] = 1.0  # dark, not white: the array as a whole runs to 200
    collection = drain(read((pixels, list("abab"))))
    assert np.load(io.BytesIO(collection.load("0"))).max() == 1


def test_pictures_of_any_size_in_a_list():
    assert shown(drain(read((UNEVEN, NUMBERS))), "7").shape == (6, 9, 3)


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_channels_first_are_turned(form):
    first = np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))
    collection, usual = drain(read((form(first), NUMBERS))), drain(read((PIXELS, NUMBERS)))
    assert collection.record.examples == usual.record.examples


@pytest.mark.parametrize(
    ("images", "targets", "part"),
    [
        (X, Y[:3], "X has 4 rows, y has 3"),
        (X[0], Y, "X has shape (3, 3); images are"),
        (np.zeros((4, 3, 32, 3), np.uint8), Y, "whose channels may be first or last; pad the"),
        (np.zeros((4, 8, 8, 14), np.uint8), Y, "of 1 to 13 channels"),
        (X[:, :0], Y, "is empty"),
        (np.full((4, 3, 3), np.nan), Y, "X holds NaN or infinity"),
        (np.full((4, 3, 3), -1.5), Y, "values from -1.5 to -1.5; give 0 to 1 or 0 to 255"),
        (X.astype(complex), Y, "X holds complex128 values"),
        (np.array([None] * 4), Y, "X holds objects"),
        ([np.zeros((2, 2)), np.zeros((3, 3))], Y[:2], "different shapes"),
        (X, np.eye(4), "y has shape (4, 4)"),
        (X, [0.0, 1.0, float("nan"), 1.0], "y[2] is nan"),
        (X, [0.5, 1, 2, 3], "y[0] is 0.5; class labels are texts or whole numbers"),
        (X, np.array(["a", None, "b", "b"], object), "y[1] is None, which is not a label"),
        (X, ["a"] * 4, 'y has one class ("a")'),
        (X, ["a", "a", "a", "b"], 'y: class "b" has 1 training image'),
        (["no.png", "nor.png"], ["a", "b"], "2 of 2 files not found (first: no.png)"),
    ],
)
def test_arrays_that_do_not_fit(images, targets, part):
    fails((images, targets), part)


# ---- DataFrames -------------------------------------------------------------------------------


class Frame:
    """As much of a pandas DataFrame as is used: `columns`, `frame[name]`, `len`."""

    def __init__(self, **columns) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return self._columns[name]

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))


def frame(photos: Path, **more) -> Frame:
    paths = sorted(photos.rglob("*.png"))
    return Frame(path=paths, label=[path.parent.name for path in paths], **more)


def test_a_frame_of_paths_and_labels(photos):
    source = frame(photos, visit=[1.0, 1.0, 2.0, 2.0, float("nan"), 3.0])
    collection = drain(read(source, group="visit"))
    examples = collection.record.examples
    assert "".join(e.label for e in examples) == "aaabbb"
    assert [e.group for e in examples] == ["1", "1", "2", "2", None, "3"]
    assert collection.record.layout.startswith('the DataFrame: images from "path", labels from')
    assert collection.load(examples[0].id) == (photos / "a/0.png").read_bytes()
    source = frame(photos, patient=[1, 1, 2, 2, 3, 3])
    assert drain(read(source)).record.problems[0].items == ("patient",)
    assert [split for _, _, split in rows(photos, test=source)] == ["train"] * 6 + ["test"] * 6


def test_frames_that_do_not_fit(photos):
    fails(Frame(path=[], label=[]), "the DataFrame has no rows; give one row per example")
    fails(Frame(label=["a"]), "the DataFrame has no column that looks like the path")
    fails(frame(photos), 'the DataFrame has no column "kind"', label="kind")
    fails(Frame(path=["a.png"], label=[None]), "the DataFrame row 0 has an empty label")
    fails(Frame(path=["a.png"], label=[{"a": 1}]), 'row 0: "label" is not a text or number')
    fails(Frame(path=["a.png"], label=["a"]), "1 of 1 file not found (first: a.png, row 0)")


# ---- data sets of torchvision -------------------------------------------------------------------


def test_an_image_folder_reads_as_the_folder(photos):
    source = ImageFolder(str(photos))
    collection = drain(read(source))
    assert (rows(source), collection.record.name) == (rows(photos), "photos")
    assert collection.load("b/1.png") == (photos / "b/1.png").read_bytes()
    assert rows(Subset(source, [0, 1, 3, 4])) == [rows(photos)[n] for n in (0, 1, 3, 4)]
    source.samples[2] = (source.samples[2][0], 7)
    fails(source, "the ImageFolder has a/2.png in class 7, but names 2 classes, counted from 0")
    source.samples.clear()
    fails(source, "the ImageFolder holds no training image")
    with pytest.raises(DataError, match="the ImageFolder holds no labelled image"):
        drain(read_for_scoring(source, ("a", "b")))


class Held:
    """CIFAR10, MNIST, SVHN: images and classes in memory; `dataset[n]` gives a PIL image."""

    def __init__(self, data, **labels) -> None:
        self.data = data
        for name, values in labels.items():
            setattr(self, name, values)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, n):
        raise AssertionError("its images are taken as they are held")


NAMES = {"classes": ["ant", "bee", "cow"]}


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (PIXELS, {"targets": NUMBERS, **NAMES}),
        (torch.from_numpy(PIXELS), {"targets": torch.tensor(NUMBERS), **NAMES}),
        (PIXELS.transpose(0, 3, 1, 2), {"labels": np.array(NUMBERS)}),
        ([Image.fromarray(one) for one in PIXELS], {"labels": NUMBERS}),
    ],
)
def test_a_data_set_that_holds_its_images(data, labels):
    source = Held(data, **labels)
    collection = drain(read(source))
    record = collection.record
    assert (record.kind, record.classes) == (
        "image",
        tuple(labels.get("classes", ("0", "1", "2"))),
    )
    np.testing.assert_array_equal(shown(collection, record.examples[7].id), PIXELS[7])
    some = drain(read(Subset(Subset(source, range(1, 12)), [0, 1, 3, 4, 6, 7])))
    expected = [record.examples[n].label for n in (1, 2, 4, 5, 7, 8)]
    assert [e.label for e in some.record.examples] == expected
    np.testing.assert_array_equal(shown(some, some.record.examples[4].id), PIXELS[7])


class Dataset:
    """A map-style data set of pairs of a picture or tensor and a class."""

    def __init__(self, items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, n):
        return self.items[n]


class Jitter(Dataset):
    n = 0

    def __getitem__(self, n):
        self.n += 1
        return Image.fromarray(PIXELS[n] // self.n), NUMBERS[n]


TENSORS = torch.arange(12 * 5).reshape(12, 5).float()


def test_a_data_set_of_pairs():
    source = Dataset([*zip(UNEVEN, NUMBERS, strict=True)])
    collection = drain(read(source))
    assert collection.record.kind == "image"
    assert shown(collection, "07").shape == (6, 9, 3)
    assert len(rows(Subset(source, range(9)))) == 9
    collection = drain(read(Dataset([*zip(TENSORS, np.array(NUMBERS), strict=True)])))
    assert (collection.record.kind, collection.record.classes) == ("tensor", ("0", "1", "2"))
    np.testing.assert_array_equal(np.load(io.BytesIO(collection.load("07"))), TENSORS[7])


@pytest.mark.parametrize(
    ("items", "part"),
    [
        ([], "the Dataset is empty"),
        ([1, 2], "returns a int for example 0; give pairs"),
        ([(TENSORS[0], 0), (TENSORS[1, :2], 1)], "float32 of shape (2,) for example 1, and"),
        ([(TENSORS[0], 0), (TENSORS[1], 0.5)], "returns 0.5 as the class of example 1"),
        ([("word", 0)], "example 0 of the Dataset is not a tensor of numbers (str)"),
        ([(TENSORS[0] * float("nan"), 0)], "holds NaN or infinite numbers"),
    ],
)
def test_data_sets_of_pairs_that_do_not_fit(items, part):
    fails(Dataset(items), part)


def test_data_sets_that_are_not_read():
    fails(Jitter(range(12)), "returns another image each time for example 0")
    saveable = type("Saveable", (), {"save_to_disk": lambda self, path: None})()
    fails(saveable, "type Saveable is not read; save it with .save_to_disk(FOLDER)")
