"""A DataFrame and a torchvision ImageFolder, which read as a table and a folder do."""

from __future__ import annotations

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


class Frame:
    """As much of a pandas DataFrame as is used: `columns`, `frame[name]`, `len`."""

    def __init__(self, **columns) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return self._columns[name]

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos")


def frame(photos: Path, **more) -> Frame:
    paths = sorted(photos.rglob("*.png"))
    return Frame(path=paths, label=[path.parent.name for path in paths], **more)


def test_a_frame_of_paths_and_labels(photos):
    source = frame(photos, visit=[1.0, 1.0, 2.0, 2.0, float("nan"), 3.0])
    collection = drain(read(source, group="visit"))
    result = [(e.label, e.group) for e in collection.record.examples]
    assert result == [("a", "1"), ("a", "1"), ("a", "2"), ("b", "2"), ("b", None), ("b", "3")]
    assert collection.record.layout.startswith('the DataFrame: images from "path", labels from')
    first = collection.record.examples[0].id
    assert collection.load(first) == (photos / "a/0.png").read_bytes()


def test_a_frame_proposes_a_group_and_may_be_the_test_set(photos):
    source = frame(photos, patient=[1, 1, 2, 2, 3, 3])
    (finding,) = drain(read(source)).record.problems
    assert finding.items == ("patient",)
    assert [split for _, _, split in rows(photos, test=source)] == ["train"] * 6 + ["test"] * 6


def test_frames_that_do_not_fit(photos):
    fails(Frame(path=[], label=[]), "the DataFrame has no rows; give one row per example")
    fails(Frame(label=["a"]), "the DataFrame has no column that looks like the path")
    fails(frame(photos), 'the DataFrame has no column "kind"', label="kind")
    fails(Frame(path=["a.png"], label=[None]), "the DataFrame row 0 has an empty label")
    fails(Frame(path=["a.png"], label=[{"a": 1}]), 'row 0: "label" is not a text or number')
    fails(Frame(path=["a.png"], label=["a"]), "1 of 1 file not found (first: a.png, row 0)")


def test_an_image_folder_reads_as_the_folder(photos):
    collection = drain(read(ImageFolder(str(photos))))
    assert [(e.id, e.label) for e in collection.record.examples] == [
        (id, label) for id, label, _ in rows(photos)
    ]
    assert collection.record.name == "photos"
    assert collection.load("b/1.png") == (photos / "b/1.png").read_bytes()


def test_an_image_folder_with_an_unknown_class(photos):
    source = ImageFolder(str(photos))
    source.samples[2] = (source.samples[2][0], 7)
    fails(source, "the ImageFolder has a/2.png in class 7, but names 2 classes, counted from 0")
    source.samples.clear()
    fails(source, "the ImageFolder holds no training image")
    with pytest.raises(DataError, match="the ImageFolder holds no labelled image"):
        drain(read_for_scoring(source, ("a", "b")))


def test_a_data_set_in_memory_says_how_to_save_it():
    class Dataset:
        def save_to_disk(self, path: str) -> None: ...

    fails(Dataset(), "type Dataset is not read; save it with .save_to_disk(FOLDER) and name FOLDER")


# ---- data sets of torchvision ------------------------------------------------------------------


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


PIXELS = np.random.default_rng(0).integers(0, 255, (12, 9, 9, 3), dtype=np.uint8)
NUMBERS = [n % 3 for n in range(12)]


def shown(collection, id):
    return np.asarray(decode(collection.load(id), id))


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (PIXELS, {"targets": NUMBERS, "classes": ["ant", "bee", "cow"]}),
        (
            torch.from_numpy(PIXELS),
            {"targets": torch.tensor(NUMBERS), "classes": ["ant", "bee", "cow"]},
        ),
        (PIXELS.transpose(0, 3, 1, 2), {"labels": np.array(NUMBERS)}),
        ([Image.fromarray(one) for one in PIXELS], {"labels": NUMBERS}),
    ],
)
def test_a_data_set_that_holds_its_images(data, labels):
    source = Held(data, **labels)
    collection = drain(read(source))
    record = collection.record
    assert record.kind == "image"
    assert record.classes == (("ant", "bee", "cow") if "classes" in labels else ("0", "1", "2"))
    np.testing.assert_array_equal(shown(collection, record.examples[7].id), PIXELS[7])
    some = drain(read(Subset(Subset(source, range(1, 12)), [0, 1, 3, 4, 6, 7])))
    assert [e.label for e in some.record.examples] == [
        record.examples[n].label for n in (1, 2, 4, 5, 7, 8)
    ]
    np.testing.assert_array_equal(shown(some, some.record.examples[4].id), PIXELS[7])


def test_a_subset_of_an_image_folder(photos):
    source = Subset(ImageFolder(str(photos)), [0, 1, 3, 4])
    result = [(e.id, e.label) for e in drain(read(source)).record.examples]
    whole = [(id, label) for id, label, _ in rows(photos)]
    assert result == [whole[n] for n in (0, 1, 3, 4)]


class Given:
    """Pairs of a PIL image and a class."""

    def __init__(self, jitter=False) -> None:
        self.jitter = jitter
        self.n = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, n):
        self.n += self.jitter
        return Image.fromarray(PIXELS[n][: 5 + n % 3] // (1 + self.n)), NUMBERS[n]


def test_a_data_set_that_gives_pictures_of_any_size():
    collection = drain(read(Given()))
    assert collection.record.kind == "image"
    assert shown(collection, "07").shape == (6, 9, 3)
    some = drain(read(Subset(Given(), range(9)))).record
    assert len(some.examples) == 9


def test_a_data_set_that_draws_pictures_at_random():
    fails(Given(jitter=True), "returns another image each time for example 0")


def test_pictures_of_any_size_in_a_list():
    pictures = [Image.fromarray(PIXELS[n][: 5 + n % 3]) for n in range(12)]
    collection = drain(read((pictures, NUMBERS)))
    assert shown(collection, "7").shape == (6, 9, 3)


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_channels_first_are_turned(form):
    first = np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))
    collection, usual = drain(read((form(first), NUMBERS))), drain(read((PIXELS, NUMBERS)))
    assert collection.record.examples == usual.record.examples
