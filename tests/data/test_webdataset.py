"""WebDataset shards: what has one basename is one example."""

from __future__ import annotations

import gc
import io
import json
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from extraction import collect
from hue_images import draw
from warmstart.data import webdataset
from warmstart.data.dataset import Columns
from warmstart.data.place import suffix
from warmstart.data.webdataset import list_shards
from warmstart.errors import DataError


def picture(hue=0, seed=0):
    file = io.BytesIO()
    draw(np.random.default_rng(seed), hue, 16).save(file, "PNG")
    return file.getvalue()


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    return path


def shard(path, begin, n=6):
    return pack(
        path,
        [
            member
            for k in range(begin, begin + n)
            for member in ((f"{k:05d}.png", picture(k % 2, k)), (f"{k:05d}.cls", b"%d\n" % (k % 2)))
        ],
    )


def test_shards_are_one_data_set(tmp_path):
    shard(tmp_path / "s" / "a-000.tar", 0)
    shard(tmp_path / "s" / "a-001.tar", 6)
    result = collect(tmp_path / "s")
    assert result.record.classes == ("0", "1")
    assert len(result.record.examples) == 12
    assert "2 shards" in result.title
    first = result.record.examples[0]
    assert first.id == "a-000.tar/00000.png"
    assert Image.open(io.BytesIO(result.load(first.id))).size == (16, 16)


def test_folders_of_shards_are_splits(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        shard(tmp_path / part / "x.tar", 10 * number)
    examples = collect(tmp_path).record.examples
    assert {e.id.partition("/")[0]: e.split for e in examples} == {
        "train": "train",
        "val": "holdout",
        "test": "test",
    }


def test_labels_and_groups_come_from_json_too(tmp_path):
    members = []
    for k in range(8):
        messages = {"species": "ab"[k % 2], "label": 9, "site": f"s{k // 2}"}
        members += [
            (f"d/{k}.png", picture(k % 2, k)),
            (f"d/{k}.json", json.dumps(messages).encode()),
        ]
    members += [("d/lost.png", picture()), ("d/9.txt", b"a caption"), ("d/.hidden.png", b"")]
    pack(tmp_path / "s" / "a.tar", members)
    result = collect(tmp_path / "s", label="species", group="site")
    assert result.record.classes == ("a", "b")
    assert {e.group for e in result.record.examples} == {"s0", "s1", "s2", "s3"}
    assert result.record.problems[0].items == ("a.tar/d/lost.png: has no label",)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.png", b"x")], "no image in its shards has a label"),
        ([("a.png", b"x"), ("a.json", b"{")], "a.json is not JSON"),
        ([("../a.png", b"x")], "points outside it"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(tmp_path, members, said):
    pack(tmp_path / "s" / "a.tar", members)
    with pytest.raises(DataError, match=said):
        collect(tmp_path / "s")


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match=r"s/a\.tar cannot be opened as tar"):
        collect(tmp_path / "s")
    path = shard(tmp_path / "t" / "a.tar", 0)
    listing = list_shards(tmp_path / "t", "t", Columns())
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="is cut off in its shard"):
        listing.load(listing.rows[-1].id)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        listing.load(listing.rows[-1].id)


@pytest.mark.usefixtures("any_share")
def test_an_image_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    shard(tmp_path / "s" / "a.tar", 0)
    whole = collect(tmp_path / "s").record
    sizes = sorted(len(picture(k % 2, k)) for k in range(6))
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", sizes[-1] - 1)
    record = collect(tmp_path / "s").record
    assert 0 < len(record.examples) < len(whole.examples)
    (finding,) = (result for result in record.problems if result.kind == "unreadable")
    assert all("is larger than 512 MB" in item for item in finding.items)


def test_other_folders_are_no_shards(tmp_path, pictures):
    assert list_shards(pictures, "pictures", Columns()) is None
    shard(tmp_path / "mixed" / "a.tar", 0)
    (tmp_path / "mixed" / "b.png").write_bytes(picture())
    assert list_shards(tmp_path / "mixed", "mixed", Columns()) is None


def test_memory_does_not_grow_with_the_bytes_of_the_images(tmp_path):
    """2,000 images of 4 KB: what is kept is where they lie."""
    members = []
    for k in range(2000):
        members += [(f"{k}.png", b"\0" * 4096), (f"{k}.cls", b"%d" % (k % 3))]
    pack(tmp_path / "s" / "a.tar", members)
    del members
    tracemalloc.start()
    listing = list_shards(tmp_path / "s", "s", Columns())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(listing.rows) == 2000
    assert peak < 2000 * 1500


def test_of_an_image_little_stays_in_memory(tmp_path):
    """Its id, its digest, its place: 300 bytes or so."""
    members = []
    for k in range(2000):
        members += [(f"{k:05d}.png", b"%d" % k), (f"{k:05d}.cls", b"%d" % (k % 3))]
    pack(tmp_path / "s" / "a.tar", members)
    del members
    tracemalloc.start()
    result = collect(tmp_path / "s")
    gc.collect()
    stored = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(result.record.examples) == 2000
    assert stored < 2000 * 450


def test_nothing_is_kept_of_names_whose_suffix_was_requested():
    """pathlib interns each name it sees: 240 bytes an image, beside what is kept of it."""
    names = [f"{k:06d}.jpg" for k in range(200_000)]
    tracemalloc.start()
    assert all(suffix(name) == ".jpg" for name in names)
    stored = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert stored < 1_000_000


def test_images_are_found_in_shards_of_any_order(tmp_path):
    order = [5, 2, 9, 0, 7, 4]
    members = [m for k in order for m in ((f"{k}.png", picture(k % 2, k)), (f"{k}.cls", b"a"))]
    pack(tmp_path / "s" / "b.tar", members)
    pack(tmp_path / "s" / "a.tar", [(n, p if n[-1] == "g" else b"b") for n, p in members])
    result = collect(tmp_path / "s")
    for name, label in (("a", "b"), ("b", "a")):
        for k in order:
            id = f"{name}.tar/{k}.png"
            assert result.load(id) == picture(k % 2, k)
            assert next(e.label for e in result.record.examples if e.id == id) == label
    with pytest.raises(KeyError):
        result.load("b.tar/1.png")


def test_one_shard_alone(tmp_path):
    path = shard(tmp_path / "shard-0001.tar", 0, 8)
    result, whole = collect(path), collect(tmp_path)
    assert [e.id for e in result.record.examples] == [e.id for e in whole.record.examples]
    assert result.record.classes == ("0", "1")
    assert result.title == f"8 images in {path}"


def test_one_shard_with_labels_in_json(tmp_path):
    members = [
        member
        for k in range(6)
        for member in (
            (f"{k}.png", picture(k % 2, k)),
            (f"{k}.json", json.dumps({"label": k % 2}).encode()),
        )
    ]
    assert collect(pack(tmp_path / "a.tar", members)).record.classes == ("0", "1")


def test_a_tar_of_class_folders_with_notes_is_no_shard(tmp_path):
    members = [
        member
        for k in range(6)
        for member in (
            (f"{'ab'[k % 2]}/{k}.png", picture(k % 2, k)),
            (f"{'ab'[k % 2]}/{k}.json", b"{}"),
        )
    ]
    result = collect(pack(tmp_path / "a.tar", members))
    assert result.record.classes == ("a", "b")
