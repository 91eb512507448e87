"""Parquet: tables of paths, and tables that hold the images, as Hugging Face writes them."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_files import GREYS, embedded, fails, features, paint, rows
from warmstart.data.arrow import RowGroups, parse_parquet
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain

NAMES = list(GREYS)
LABELS = [name[0] for name in NAMES]


def save(path: Path, columns: dict, notes=None, **options) -> Path:
    table = pa.table(columns)
    if notes is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(notes)})
    pq.write_table(table, path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "root")


# ---- paths ------------------------------------------------------------------------------------


def test_a_table_of_paths(root):
    columns = {"path": NAMES, "label": LABELS, "patient": [1, 1, 2, 2, None, 3]}
    source = save(root / "labels.parquet", columns)
    assert rows(source) == [(name, name[0], "train") for name in NAMES]
    examples = drain(read(source, group="patient")).record.examples
    assert [e.group for e in examples] == ["1", "1", "2", "2", None, "3"]
    (finding,) = drain(read(source)).record.problems
    assert finding.items == ("patient",)


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(LABELS).dictionary_encode(),
        pa.array(LABELS, pa.large_string()),
        pa.array([0, 0, 0, 1, 1, 1], pa.uint8()),
        pa.array([0.0, 0, 0, 1, 1, 1]),
        pa.array([False] * 3 + [True] * 3),
    ],
    ids=str,
)
def test_labels_of_any_plain_kind(root, labels):
    source = save(root / "labels.parquet", {"path": NAMES, "label": labels})
    assert drain(read(source)).record.classes in (("a", "b"), ("0", "1"), ("False", "True"))


def test_a_table_in_a_folder_and_in_an_archive(root, tmp_path):
    save(root / "metadata.parquet", {"file_name": NAMES, "label": LABELS})
    assert rows(root) == [(name, name[0], "train") for name in NAMES]
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    assert rows(packed) == rows(root)


# ---- images in the table ------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 2, 100])
def test_images_in_the_table(tmp_path, group):
    columns = {"image": embedded(), "label": [0, 0, 0, 1, 1, 1]}
    notes = {"info": {"features": features(label="ab")}}
    source = save(tmp_path / "train.parquet", columns, notes, row_group_size=group)
    collection = drain(read(source))
    assert [(e.id, e.label) for e in collection.record.examples] == list(
        zip(NAMES, LABELS, strict=True)
    )
    for index, name in enumerate(NAMES):
        assert collection.load(name) == columns["image"][index]["bytes"].as_py()
    assert collection.record.layout == 'train.parquet: images from "image", labels from "label"'


def test_plain_bytes_have_numbers_as_ids(tmp_path):
    payloads = [cell["bytes"].as_py() for cell in embedded()] * 2
    source = save(tmp_path / "a.parquet", {"picture": payloads, "label": LABELS * 2})
    assert [id for id, _, _ in rows(source)] == [f"{i:02}" for i in range(12)]


def test_structs_without_a_path(tmp_path):
    images = pa.array([{"bytes": cell["bytes"].as_py()} for cell in embedded()])
    source = save(tmp_path / "a.parquet", {"image": images, "label": LABELS})
    assert [id for id, _, _ in rows(source)] == list("012345")


def test_paths_that_come_twice_give_way_to_numbers(tmp_path):
    images = embedded(name="same.png")
    source = save(tmp_path / "a.parquet", {"image": images, "label": LABELS})
    assert [id for id, _, _ in rows(source)] == list("012345")


def test_images_named_only_are_read_from_beside_the_table(root):
    cells = [{"bytes": None, "path": name} for name in NAMES[:-1]]
    cells += [{"bytes": None, "path": str(root / NAMES[-1])}]
    images = pa.array(cells, embedded().type)
    source = save(root / "a.parquet", {"image": images, "label": LABELS})
    collection = drain(read(source))
    assert collection.load(str(root / NAMES[-1])) == (root / NAMES[-1]).read_bytes()
    assert collection.load(NAMES[0]) == (root / NAMES[0]).read_bytes()


@pytest.mark.usefixtures("any_share")
def test_a_row_without_an_image_is_left_out_and_listed(tmp_path):
    images = embedded(name=None).to_pylist()
    images[1]["bytes"] = None
    images += images[:1]
    source = save(
        tmp_path / "a.parquet",
        {"image": pa.array(images, embedded().type), "label": [*LABELS, "a"]},
    )
    record = drain(read(source)).record
    assert len(record.examples) == 6
    assert record.problems[0].items == ("1: holds no image",)


@pytest.mark.usefixtures("any_share")
def test_an_image_over_the_limit_is_left_out(tmp_path, monkeypatch):
    source = save(tmp_path / "a.parquet", {"image": embedded(), "label": LABELS})
    monkeypatch.setattr("warmstart.data.arrow.MAX_FILE_BYTES", 10)
    fails(source, "holds no training image")


# ---- mistakes -----------------------------------------------------------------------------------


def test_without_pyarrow(root, monkeypatch):
    source = save(root / "labels.parquet", {"path": NAMES, "label": LABELS})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fails(source, "labels.parquet is read with pyarrow, which is not installed; run `pip install ")


@pytest.mark.parametrize("end", [-1, -200, 100, 4, 0])
def test_a_file_that_is_cut_off(root, end):
    source = save(root / "labels.parquet", {"path": NAMES, "label": LABELS})
    source.write_bytes(source.read_bytes()[:end])
    fails(source, "labels.parquet cannot be read as Parquet (", "copy it again")


def test_a_file_that_is_damaged_inside(root):
    source = save(root / "labels.parquet", {"path": NAMES, "label": LABELS}, compression="zstd")
    payload = bytearray(source.read_bytes())
    payload[4:120] = bytes(116)
    source.write_bytes(payload)
    fails(source, "labels.parquet cannot be read as Parquet (")


def test_columns_of_different_lengths(tmp_path, monkeypatch):
    """As damage in a page header may leave them."""
    source = save(tmp_path / "a.parquet", {"image": embedded(), "label": LABELS})
    scan = RowGroups.scan

    def short(groups):
        scan(groups)
        groups.inside.pop()

    monkeypatch.setattr(RowGroups, "scan", short)
    fails(source, "a.parquet cannot be read as Parquet (its columns are of different lengths)")


def test_no_label_column(root):
    source = save(root / "labels.parquet", {"path": NAMES, "kind": LABELS})
    fails(source, "looks like the label. It has: path, kind. Name it with --label")
    fails(source, "Did you mean --label kind?", label="kid")


def test_labels_that_are_lists(root):
    source = save(root / "labels.parquet", {"path": NAMES, "label": [[x] for x in LABELS]})
    fails(source, 'labels.parquet row 0: "label" is not a text or number; give one label per row')


def test_no_rows(root):
    source = save(root / "labels.parquet", {"path": pa.array([], pa.string()), "label": []})
    fails(source, "labels.parquet has no rows")


def test_an_empty_label(root):
    source = save(root / "labels.parquet", {"path": NAMES, "label": [*LABELS[:5], None]})
    fails(source, "labels.parquet row 5 has an empty label; fill it in or remove the row")


@pytest.mark.parametrize(("number", "what"), [(7, "is 7"), (-1, "is -1, which means without a la")])
def test_a_class_number_that_has_no_name(tmp_path, number, what):
    columns = {"image": embedded(), "label": [0, 0, 0, 1, 1, number]}
    source = save(tmp_path / "a.parquet", columns, {"info": {"features": features(label="ab")}})
    fails(source, f'a.parquet row 5: "label" {what}', "it names 2 classes, counted from 0")


@pytest.mark.parametrize(
    "notes",
    [
        {"info": {"features": ["image"]}},
        {"info": 3},
        [],
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": [1]}}}},
    ],
)
def test_features_that_make_no_sense(tmp_path, notes):
    source = save(tmp_path / "a.parquet", {"image": embedded(), "label": LABELS}, notes)
    fails(source, "a.parquet cannot be read as Parquet (")


def test_two_columns_of_images(tmp_path):
    source = save(tmp_path / "a.parquet", {"x": embedded(), "y": embedded(), "label": LABELS})
    fails(source, 'a.parquet has 2 columns of bytes (x, y); call the one with the images "image"')


def test_the_images_as_label(tmp_path):
    source = save(tmp_path / "a.parquet", {"image": embedded(), "label": LABELS})
    fails(source, '"image" holds the images; name another column with --label', label="image")


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "nowhere.png", "out.png"])
def test_images_named_only_that_do_not_lie_beside_the_table(root, path):
    outside = root.parent / "outside.png"
    outside.write_bytes((root / NAMES[0]).read_bytes())
    (root / "out.png").symlink_to(outside)
    images = pa.array([{"bytes": None, "path": path}] * 6, embedded().type)
    source = save(root / "a.parquet", {"image": images, "label": LABELS})
    part = f'6 of 6 images in "image" are paths of files that do not lie beside it (first: {path}, '
    fails(source, part, "save the data set again with the images in it")


def test_a_bomb(tmp_path, monkeypatch):
    source = save(tmp_path / "a.parquet", {"image": [bytes(2**20)] * 80, "label": list("ab") * 40})
    assert source.stat().st_size < 2**20
    fails(source, "a.parquet unpacks to more than is plausible; save its images as files")


@given(place=st.floats(0, 1), byte=st.integers(0, 255), n=st.integers(1, 8))
@settings(max_examples=60)
def test_damaged_files_are_refused_or_read(tmp_path_factory, place, byte, n):
    """Never a crash, and never an error that is not ours."""
    columns = {"image": embedded(), "label": LABELS}
    source = save(tmp_path_factory.mktemp("x") / "a.parquet", columns)
    payload = bytearray(source.read_bytes())
    start = int(place * (len(payload) - 1))
    payload[start : start + n] = bytes([byte]) * n
    source.write_bytes(payload)
    with suppress(DataError):
        drain(read(source))


# ---- files that unpack to far more than they are -------------------------------------------------


def few_values(path, cell, n, column="text", kind=None):
    """A file of some kB: one value, n times."""
    same = pa.array(np.zeros(n, np.int32))
    table = pa.table(
        {
            column: pa.DictionaryArray.from_arrays(same, pa.array([cell], kind)),
            "label": pa.array(["a", "b"] * (n // 2)),
        }
    )
    pq.write_table(table, path, compression="zstd", store_schema=False)
    return path


def taken_by(call):
    """The most that Arrow and Python took meanwhile."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


def test_a_text_that_stands_in_many_rows_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = few_values(tmp_path / "a.parquet", "some words " * 10_000, 4000)  # 440 MB
    assert path.stat().st_size < 50_000
    monkeypatch.setattr("warmstart.machine.free_memory", lambda: 100_000_000)
    most = taken_by(lambda: fails(path, "a.parquet takes about 440 MB of memory when it is read"))
    assert most < 20_000_000


def test_a_text_that_stands_in_many_rows_is_one_text(tmp_path):
    table = parse_parquet(few_values(tmp_path / "a.parquet", "some words", 4000), "a.parquet")
    assert len(set(map(id, table.texts("text")))) == 1


def test_more_rows_than_fit_are_refused(tmp_path, monkeypatch):
    path = few_values(tmp_path / "a.parquet", "some words", 400_000)
    monkeypatch.setattr("warmstart.machine.free_memory", lambda: 20_000_000)
    fails(path, "a.parquet takes about 26 MB of memory", "leave out rows or columns")


def test_an_image_that_stands_in_many_rows_is_refused_before_it_is_unpacked(tmp_path):
    path = few_values(tmp_path / "a.parquet", bytes(70_000_000), 32, "image", pa.binary())
    most = taken_by(lambda: fails(path, "unpacks to more than is plausible; save its images as"))
    assert most < 300_000_000  # of 2.2 GB


def test_a_column_of_lists_is_not_unpacked(tmp_path):
    lists = pa.array([[1, 2], None, []] * 4, pa.list_(pa.int64()))
    pq.write_table(pa.table({"box": lists, "label": list("ab") * 6}), tmp_path / "a.parquet")
    assert parse_parquet(tmp_path / "a.parquet", "a").texts("box") == [None, "", None] * 4
