"""Data sets saved by `datasets`; the files are made with pyarrow in the same format."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_files import GREYS, embedded, fails, features, paint, rows
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain

NAMES = list(GREYS)


def save(root: Path, columns: dict | None = None, n_shards: int = 1, **names) -> Path:
    """As `Dataset.save_to_disk(root)` does."""
    root.mkdir(parents=True)
    table = pa.table(columns or {"image": embedded(), "label": [0, 0, 0, 1, 1, 1]})
    files = [f"data-{i:05}-of-{n_shards:05}.arrow" for i in range(n_shards)]
    step = -(-table.num_rows // n_shards)
    for index, file in enumerate(files):
        with (
            pa.OSFile(str(root / file), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table.slice(index * step, step), max_chunksize=2)
    info = {"citation": "", "features": features(**(names or {"label": "ab"}))}
    state = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": "x",
        "_format_type": None,
        "_split": None,
    }
    (root / "dataset_info.json").write_text(json.dumps(info))
    (root / "state.json").write_text(json.dumps(state))
    return root


def save_dict(root: Path, splits=("train", "validation", "test")) -> Path:
    """As `DatasetDict.save_to_disk(root)` does."""
    root.mkdir(parents=True)
    for split in splits:
        save(root / split)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return root


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "saved", n_shards=3)


@pytest.mark.parametrize("n_shards", [1, 2, 6])
def test_one_data_set(tmp_path, n_shards):
    columns = {"image": embedded(), "label": [0, 0, 0, 1, 1, 1], "person": list("ppqqrr")}
    collection = drain(read(save(tmp_path / "saved", columns, n_shards), group="person"))
    result = [(e.id, e.label, e.group) for e in collection.record.examples]
    assert result == [(n, n[0], p) for n, p in zip(NAMES, "ppqqrr", strict=True)]
    for index, name in enumerate(NAMES):
        assert collection.load(name) == columns["image"][index]["bytes"].as_py()
    record = collection.record
    assert record.layout == (
        'Hugging Face data set: images from "image", labels from "label", groups from "person"'
    )
    assert (record.name, collection.title) == ("saved", f"6 images in {tmp_path / 'saved'}/")


def test_a_dictionary_of_splits(tmp_path):
    collection = drain(read(save_dict(tmp_path / "saved")))
    examples = collection.record.examples
    assert [e.split for e in examples] == ["train"] * 6 + ["holdout"] * 6 + ["test"] * 6
    assert [e.id for e in examples[5:7]] == ["train/b/2.png", "validation/a/0.png"]
    assert collection.load("test/a/0.png") == embedded()[0]["bytes"].as_py()
    assert collection.record.layout.startswith("train/validation/test of Hugging Face data set")
    assert collection.wording.place("a").endswith('saved/train/: class "a"')


def test_a_split_alone_and_another_as_test(tmp_path):
    root = save_dict(tmp_path / "saved")
    ids = [id for id, _, _ in rows(root / "train", test=root / "test")]
    assert ids[::6] == ["a/0.png", "test/a/0.png"]


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_in_an_archive(tmp_path, kind):
    root = save_dict(tmp_path / "in" / "saved")
    packed = shutil.make_archive(str(tmp_path / "packed"), kind, root.parent)
    assert rows(packed) == rows(root)


def test_rows_without_paths_are_numbered(tmp_path):
    columns = {"image": embedded(name=None), "label": [0, 0, 0, 1, 1, 1]}
    assert [id for id, _, _ in rows(save(tmp_path / "saved", columns))] == list("012345")


def test_labels_that_are_texts(tmp_path):
    columns = {"image": embedded(), "label": list("xxxyyy")}
    assert {label for _, label, _ in rows(save(tmp_path / "s", columns, other="ab"))} == {"x", "y"}


def test_images_named_only_lie_in_the_folder(tmp_path):
    root = save_dict(tmp_path / "saved", ["train"])
    paint(root / "files")
    paths = [f"../files/{name}" for name in NAMES[:-1]] + [str(root / "files" / NAMES[-1])]
    cells = [{"bytes": None, "path": path} for path in paths]
    shutil.rmtree(root / "train")
    save(root / "train", {"image": pa.array(cells, embedded().type), "label": [0, 0, 0, 1, 1, 1]})
    collection = drain(read(root))
    assert collection.load(f"train/../files/{NAMES[0]}") == (root / "files/a/0.png").read_bytes()
    assert collection.load(f"train/{paths[-1]}") == (root / "files" / NAMES[-1]).read_bytes()


def test_other_files_in_the_folder_are_not_read(saved):
    (saved / "cache-0123.arrow").write_bytes(b"x")
    (saved / "notes.csv").write_text("x")
    assert len(rows(saved)) == 6


# ---- mistakes -----------------------------------------------------------------------------------


def test_a_shard_is_missing(saved):
    (saved / "data-00001-of-00003.arrow").unlink()
    fails(saved, "saved/data-00001-of-00003.arrow is missing (1 of 3 shards); copy the whole")


def test_a_shard_that_is_a_link_outside_is_not_followed(saved):
    shard = saved / "data-00001-of-00003.arrow"
    shard.symlink_to(shard.rename(saved.parent / "elsewhere.arrow"))
    fails(saved, "data-00001-of-00003.arrow is missing")


@pytest.mark.parametrize("end", [-30, 300, 9, 0])
def test_a_shard_that_is_cut_off(saved, end):
    shard = saved / "data-00001-of-00003.arrow"
    shard.write_bytes(shard.read_bytes()[:end])
    fails(saved, "saved/ cannot be read as Arrow stream (", "copy it again")


def test_offsets_that_point_outside_are_refused(tmp_path):
    """They would read memory that is not the file's."""
    columns = {"image": [b"x"] * 6, "label": list("ababab")}
    shard = save(tmp_path / "saved", columns, other="ab") / "data-00000-of-00001.arrow"
    payload = shard.read_bytes()
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 1, 2))  # two rows a batch
    far = offsets[:8] + (900_000).to_bytes(4, "little")
    assert offsets in payload
    shard.write_bytes(payload.replace(offsets, far, 1))
    fails(tmp_path / "saved", "saved/ cannot be read as Arrow stream (")


@given(place=st.floats(0, 1), byte=st.integers(0, 255), data=st.data())
@settings(max_examples=60)
def test_damaged_shards_are_refused_or_read(tmp_path_factory, place, byte, data):
    """Never a crash, and never an error that is not ours."""
    shard = save(tmp_path_factory.mktemp("x") / "saved") / "data-00000-of-00001.arrow"
    payload = bytearray(shard.read_bytes())
    start = int(place * (len(payload) - 1))
    n = data.draw(st.integers(1, 8))
    payload[start : start + n] = bytes([byte]) * n
    shard.write_bytes(payload)
    with suppress(DataError):
        drain(read(shard.parent))


@pytest.mark.parametrize("name", ["dataset_info.json", "state.json", "dataset_dict.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"features": 1, "_data_files": 1}'])
def test_a_damaged_description(tmp_path, name, text):
    root = save_dict(tmp_path / "saved", ["train"])
    path = root / name if name == "dataset_dict.json" else root / "train" / name
    path.write_text(text)
    fails(root, f"{name} is damaged (", "copy the whole folder again")


def test_a_description_is_missing(saved):
    (saved / "state.json").unlink()
    fails(saved, "saved/state.json is missing, which `save_to_disk` writes; copy the whole folder")


def test_shards_with_names_that_are_none(saved):
    (saved / "state.json").write_text('{"_data_files": [{"filename": 3}]}')
    fails(saved, "state.json is damaged (a file name is not a text)")


def test_a_selection_in_the_old_way(saved):
    state = json.loads((saved / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (saved / "state.json").write_text(json.dumps(state))
    fails(saved, "state.json selects rows as an old version did", "save the data set again")


@pytest.mark.parametrize("number", [2, -1])
def test_a_class_number_out_of_range(tmp_path, number):
    root = save(tmp_path / "saved", {"image": embedded(), "label": [0, 0, 0, 1, 1, number]})
    fails(root, f'saved/ row 5: "label" is {number}', "it names 2 classes, counted from 0")


def test_splits_that_are_no_splits(tmp_path):
    root = save_dict(tmp_path / "saved", ["train", "unsupervised"])
    fails(root, "names the split 'unsupervised', which is not train", "name a single split")
    fails(save_dict(tmp_path / "other", ["test"]), "has no train split, only test")
    fails(save_dict(tmp_path / "none", []), "has no train split, only none")


def test_a_split_without_its_folder(tmp_path):
    root = save_dict(tmp_path / "saved")
    shutil.rmtree(root / "test")
    fails(root, "saved/test/dataset_info.json is missing")


def test_no_rows(saved):
    (saved / "state.json").write_text('{"_data_files": []}')
    fails(saved, "saved/ has no rows; save the data set again")


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "nowhere.png"])
def test_images_named_only_outside_the_folder(tmp_path, path):
    paint(tmp_path, {"outside.png": 1})
    cells = pa.array([{"bytes": None, "path": path}] * 6, embedded().type)
    root = save(tmp_path / "saved", {"image": cells, "label": [0, 0, 0, 1, 1, 1]})
    fails(root, f"files that do not lie beside it (first: {path}, row 0)")


def test_a_compressed_stream_that_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("warmstart.data.arrow.RATIO_FROM_BYTES", 2**20)
    root = save(tmp_path / "saved")
    table = pa.table({"image": [bytes(2**18)] * 16, "label": ["a", "b"] * 8})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    fails(root, "saved/ unpacks to more than is plausible; save its images as files")
