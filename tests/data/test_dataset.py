"""What cannot be read is left out up to a tenth of the data; --strict refuses the first."""

from __future__ import annotations

import csv
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmstart.data.place import open_folder, read_file
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain

ODD = os.fsdecode(b"caf\xe9.png")


@pytest.fixture
def photos(tmp_path):
    """40 images in two classes."""
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def table(photos: Path, extra=()) -> Path:
    path = photos / "labels.csv"
    rows = [(f"{p.parent.name}/{p.name}", p.parent.name) for p in sorted(photos.glob("*/*.png"))]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows, *extra])
    return path


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
        (photos / "a" / ODD).write_bytes((photos / "a/00.png").read_bytes())
        return "a/caf\\udce9.png: its name is not UTF-8"
    if how == "folder":
        (photos / "empty").mkdir()
        return "empty: holds no image"
    if how == "odd folder":
        (photos / os.fsdecode(b"caf\xe9")).mkdir()
        return "caf\\udce9: its name is not UTF-8"
    (photos / "a/link.png").symlink_to(photos / "nowhere.png")
    return "a/link.png: a link that leads nowhere"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and names of any bytes")
@pytest.mark.parametrize("how", ["pipe", "socket", "name", "folder", "odd folder", "link"])
def test_one_of_many_is_left_out_and_listed(photos, monkeypatch, how):
    monkeypatch.chdir(photos)
    item = break_one(photos, how)
    record = drain(read(photos)).record
    assert len(record.examples) == 40
    assert [result.items for result in record.problems if result.kind == "unreadable"] == [(item,)]
    with pytest.raises(DataError, match=r"^--strict: .*drop --strict$") as caught:
        drain(read(photos, strict=True))
    assert item in str(caught.value)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a/none.png", "is not there"),
        ("", "has no path"),
        ("http://a.b/c.png", "is a web address"),
    ],
)
def test_one_missing_path_of_a_table_is_left_out_and_listed(photos, path, why):
    source = table(photos, [(path, "a")])
    record = drain(read(source)).record
    assert len(record.examples) == 40
    (item,) = next(result.items for result in record.problems if result.kind == "unreadable")
    assert item.startswith(f"{path} (line 42): {why}")
    with pytest.raises(DataError, match="--strict"):
        drain(read(source, strict=True))


def test_more_than_a_tenth_is_an_error(photos):
    for number in range(4):
        (photos / f"a/{number:02d}x.png").symlink_to(photos / "nowhere.png")
    assert len(drain(read(photos)).record.examples) == 40
    (photos / "a/9x.png").symlink_to(photos / "nowhere.png")
    with pytest.raises(DataError, match=r"5 of 45 cannot be read \(first: a/00x.png: a link that"):
        drain(read(photos))


def test_more_than_a_tenth_of_a_table_is_an_error(photos):
    source = table(photos, [(f"a/none-{number}.png", "a") for number in range(5)])
    with pytest.raises(DataError, match=r"5 of 45 files not found \(first: a/none-0.png, line 42"):
        drain(read(source))


def test_images_without_a_label_are_not_counted_in_the_tenth(photos):
    for number in range(9):
        (photos / f"{number}.png").write_bytes((photos / "a/00.png").read_bytes())
    assert len(drain(read(photos)).record.examples) == 40


def test_drawings_without_pixels_are_listed_and_not_counted_in_the_tenth(photos):
    for number in range(20):
        (photos / "a" / f"{number}.svg").write_text("<svg/>")
    result = drain(read(photos))
    assert len(result.record.examples) == 40
    listed = [item for one in result.record.problems for item in one.items]
    assert sum(".svg is not read" in item for item in listed) == 20
    with pytest.raises(DataError, match="--strict"):
        drain(read(photos, strict=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a named pipe, which is not opened"):
        read_file(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a device, which is not opened"):
        read_file("/dev/zero")
    assert open_folder(tmp_path, "x").files == ()
