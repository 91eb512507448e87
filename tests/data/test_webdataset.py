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
from image_files import fails
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


def samples(numbers, label, kind="cls", image=lambda k: picture(k % 2, k)):
    """A picture and a label for each number; `label` makes the bytes of the second file."""
    return [m for k in numbers for m in ((f"{k:05d}.png", image(k)), (f"{k:05d}.{kind}", label(k)))]


def shard(path, begin, n=6):
    return pack(path, samples(range(begin, begin + n), lambda k: b"%d\n" % (k % 2)))


def test_shards_are_one_data_set(tmp_path):
    path = shard(tmp_path / "s" / "a-000.tar", 0)
    alone = collect(path)
    assert alone.title == f"6 images in {path}"
    shard(tmp_path / "s" / "a-001.tar", 6)
    result = collect(tmp_path / "s")
    examples = result.record.examples
    assert (result.record.classes, len(examples)) == (("0", "1"), 12)
    assert "2 shards" in result.title
    assert [e.id for e in alone.record.examples] == [e.id for e in examples[:6]]
    assert examples[0].id == "a-000.tar/00000.png"
    assert Image.open(io.BytesIO(result.load(examples[0].id))).size == (16, 16)


def test_folders_of_shards_are_splits(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        shard(tmp_path / part / "x.tar", 10 * number)
    splits = {e.id.partition("/")[0]: e.split for e in collect(tmp_path).record.examples}
    assert splits == {"train": "train", "val": "holdout", "test": "test"}


def test_labels_and_groups_come_from_json_too(tmp_path):
    def notes(k):
        return json.dumps({"species": "ab"[k % 2], "label": 9, "site": f"s{k // 2}"}).encode()

    members = [("d/" + name, payload) for name, payload in samples(range(8), notes, "json")]
    members += [("d/lost.png", picture()), ("d/9.txt", b"a caption"), ("d/.hidden.png", b"")]
    pack(tmp_path / "s" / "a.tar", members)
    record = collect(tmp_path / "s", label="species", group="site").record
    assert record.classes == ("a", "b")
    assert {e.group for e in record.examples} == {"s0", "s1", "s2", "s3"}
    assert record.problems[0].items == ("a.tar/d/lost.png: has no label",)
    members = samples(range(6), lambda k: b'{"label": %d}' % (k % 2), "json")
    assert collect(pack(tmp_path / "a.tar", members)).record.classes == ("0", "1")


def test_images_are_found_in_shards_of_any_order(tmp_path):
    order = [5, 2, 9, 0, 7, 4]
    for name in "ba":
        pack(tmp_path / "s" / f"{name}.tar", samples(order, lambda k, name=name: name.encode()))
    result = collect(tmp_path / "s")
    labels = {e.id: e.label for e in result.record.examples}
    assert labels == {f"{name}.tar/{k:05d}.png": name for name in "ab" for k in order}
    for id in labels:
        k = int(id[-9:-4])
        assert result.load(id) == picture(k % 2, k)
    with pytest.raises(KeyError):
        result.load("b.tar/1.png")


@pytest.mark.parametrize(
    ("members", "part"),
    [
        ([("a.png", b"x")], "no image in its shards has a label"),
        ([("a.png", b"x"), ("a.json", b"{")], "a.json is not JSON"),
        ([("../a.png", b"x")], "points outside it"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(tmp_path, members, part):
    pack(tmp_path / "s" / "a.tar", members)
    fails(tmp_path / "s", part)


def test_a_damaged_shard_is_named(tmp_path):
    path = shard(tmp_path / "t" / "a.tar", 0)
    listing = list_shards(tmp_path / "t", "t", Columns())
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="is cut off in its shard"):
        listing.load(listing.rows[-1].id)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        listing.load(listing.rows[-1].id)
    path.write_bytes(b"no tar" * 200)
    fails(tmp_path / "t", "t/a.tar cannot be opened as tar")


@pytest.mark.usefixtures("any_share")
def test_an_image_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    shard(tmp_path / "s" / "a.tar", 0)
    largest = max(len(picture(k % 2, k)) for k in range(6))
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", largest - 1)
    record = collect(tmp_path / "s").record
    assert 0 < len(record.examples) < 6
    assert all("is larger than 512 MB" in item for item in record.problems[0].items)


def test_other_folders_and_archives_are_no_shards(tmp_path, pictures):
    assert list_shards(pictures, "pictures", Columns()) is None
    shard(tmp_path / "mixed" / "a.tar", 0)
    (tmp_path / "mixed" / "b.png").write_bytes(picture())
    assert list_shards(tmp_path / "mixed", "mixed", Columns()) is None
    members = samples(range(6), lambda k: b"{}", "json")  # notes on images in class folders
    members = [(f"{'ab'[k // 2 % 2]}/{name}", m) for k, (name, m) in enumerate(members)]
    assert collect(pack(tmp_path / "a.tar", members)).record.classes == ("a", "b")


def test_of_an_image_little_is_ever_in_memory(tmp_path):
    """Of 2,000 images of 4 KB their id, digest and place stay: 300 bytes or so."""
    members = samples(range(2000), lambda k: b"%d" % (k % 3), image=lambda k: b"%4096d" % k)
    pack(tmp_path / "s" / "a.tar", members)
    del members
    tracemalloc.start()
    result = collect(tmp_path / "s")
    gc.collect()
    stored, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(result.record.examples) == 2000
    assert stored < 2000 * 450
    assert peak < 2000 * 1500


def test_nothing_stays_of_names_whose_suffix_was_requested():
    """pathlib interns each name it sees: 240 bytes an image, beside what is stored of it."""
    names = [f"{k:06d}.jpg" for k in range(20_000)]
    tracemalloc.start()
    assert all(suffix(name) == ".jpg" for name in names)
    stored = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert stored < 100_000
