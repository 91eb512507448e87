"""Parquet: tables of paths, and tables that hold the images; never all of them in memory."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_files import GREYS, embedded, fails, features, paint, rows
from warmstart.data import arrow
from warmstart.data.arrow import Pages, RowGroups, parse_parquet
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain

NAMES = list(GREYS)
LABELS = [name[0] for name in NAMES]


def save(file: Path, notes=None, label=LABELS, **columns) -> Path:
    """Columns "path" and "label" unless others are named."""
    table = pa.table((columns or {"path": NAMES}) | {"label": label})
    if notes is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(notes)})
    pq.write_table(table, file, row_group_size=4)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "root")


# ---- paths ------------------------------------------------------------------------------------


def test_a_table_of_paths(root, tmp_path):
    source = save(root / "metadata.parquet", file_name=NAMES, patient=[1, 1, 2, 2, None, 3])
    assert rows(source) == [(name, name[0], "train") for name in NAMES]
    examples = drain(read(source, group="patient")).record.examples
    assert [e.group for e in examples] == ["1", "1", "2", "2", None, "3"]
    assert drain(read(source)).record.problems[0].items == ("patient",)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    assert rows(packed) == rows(root) == rows(source)


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
    classes = drain(read(save(root / "labels.parquet", label=labels))).record.classes
    assert classes in (("a", "b"), ("0", "1"), ("False", "True"))


# ---- images in the table ------------------------------------------------------------------------


def test_images_in_the_table(tmp_path):
    notes = {"info": {"features": features(label="ab")}}
    numbers = [0, 0, 0, 1, 1, 1]
    source = save(tmp_path / "train.parquet", notes, image=embedded(), label=numbers)
    collection = drain(read(source))
    assert rows(source) == [(name, name[0], "train") for name in NAMES]
    for index, name in enumerate(NAMES):
        assert collection.load(name) == embedded()[index]["bytes"].as_py()
    assert collection.record.layout == 'train.parquet: images from "image", labels from "label"'


@pytest.mark.parametrize(
    "images",
    [
        pa.array([cell["bytes"].as_py() for cell in embedded()]),
        pa.array([{"bytes": cell["bytes"].as_py()} for cell in embedded()]),
        embedded(name="same.png"),
    ],
)
def test_images_without_a_name_of_their_own_have_numbers(tmp_path, images):
    assert [id for id, _, _ in rows(save(tmp_path / "a.parquet", picture=images))] == list("012345")


def named_only(*paths):
    return pa.array([{"bytes": None, "path": path} for path in paths], embedded().type)


def test_images_named_only_are_read_from_beside_the_table(root):
    absolute = str(root / NAMES[-1])
    source = save(root / "a.parquet", image=named_only(*NAMES[:-1], absolute))
    collection = drain(read(source))
    assert collection.load(absolute) == (root / NAMES[-1]).read_bytes()
    assert collection.load(NAMES[0]) == (root / NAMES[0]).read_bytes()


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "nowhere.png", "out.png"])
def test_images_named_only_that_do_not_lie_beside_the_table(root, path):
    outside = root.parent / "outside.png"
    outside.write_bytes((root / NAMES[0]).read_bytes())
    (root / "out.png").symlink_to(outside)
    source = save(root / "a.parquet", image=named_only(*[path] * 6))
    part = f'6 of 6 images in "image" are paths of files that do not lie beside it (first: {path}, '
    fails(source, part, "save the data set again with the images in it")


@pytest.mark.usefixtures("any_share")
def test_rows_without_an_image_or_with_one_too_large_are_left_out(tmp_path, monkeypatch):
    images = embedded(name=None).to_pylist()
    images[1]["bytes"] = None
    images = pa.array([*images, images[0]], embedded().type)
    source = save(tmp_path / "a.parquet", image=images, label=[*LABELS, "a"])
    record = drain(read(source)).record
    assert len(record.examples) == 6
    assert record.problems[0].items == ("1: holds no image",)
    monkeypatch.setattr(arrow, "MAX_FILE_BYTES", 10)
    fails(source, "holds no training image")


# ---- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [-1, -200, 100, 4, 0])
def test_a_file_that_is_cut_off(root, end):
    source = save(root / "labels.parquet")
    source.write_bytes(source.read_bytes()[:end])
    fails(source, "labels.parquet cannot be read as Parquet (", "copy it again")


@given(place=st.floats(0, 1), byte=st.integers(0, 255), n=st.integers(1, 8))
@settings(max_examples=40)
def test_damaged_files_are_refused_or_read(tmp_path_factory, place, byte, n):
    """Never a crash, and never an error that is not ours."""
    source = save(tmp_path_factory.mktemp("x") / "a.parquet", image=embedded())
    payload = bytearray(source.read_bytes())
    start = int(place * (len(payload) - 1))
    payload[start : start + n] = bytes([byte]) * n
    source.write_bytes(payload)
    with suppress(DataError):
        drain(read(source))


def test_columns_of_different_lengths(tmp_path, monkeypatch):
    """As damage in a page header may leave them."""
    source, scan = save(tmp_path / "a.parquet", image=embedded()), RowGroups.scan

    def short(groups):
        scan(groups)
        groups.inside.pop()

    monkeypatch.setattr(RowGroups, "scan", short)
    fails(source, "a.parquet cannot be read as Parquet (its columns are of different lengths)")


AB = {"info": {"features": features(label="ab")}}


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"path": NAMES, "label": [[x] for x in LABELS]}, 'row 0: "label" is not a text or number'),
        ({"path": NAMES, "label": [*LABELS[:5], None]}, "row 5 has an empty label; fill it in or"),
        ({"path": pa.array([], pa.string()), "label": []}, "a.parquet has no rows"),
        ({"x": embedded(), "y": embedded()}, "a.parquet has 2 columns of bytes (x, y); call the"),
        ({"image": embedded(), "label": [0, 0, 0, 1, 1, 7], "notes": AB}, 'row 5: "label" is 7'),
        (
            {"image": embedded(), "label": [0, 0, 0, 1, 1, -1], "notes": AB},
            'row 5: "label" is -1, which means without a label, but it names 2 classes',
        ),
        ({"image": embedded(), "notes": {"info": 3}}, "a.parquet cannot be read as Parquet ("),
        ({"image": embedded(), "notes": []}, "a.parquet cannot be read as Parquet ("),
        (
            {"image": embedded(), "notes": {"info": {"features": ["image"]}}},
            "a.parquet cannot be read as Parquet (",
        ),
        (
            {
                "image": embedded(),
                "notes": {"info": {"features": {"label": {"_type": "ClassLabel", "names": [1]}}}},
            },
            "a.parquet cannot be read as Parquet (",
        ),
    ],
)
def test_tables_that_do_not_fit(tmp_path, columns, part):
    fails(save(tmp_path / "a.parquet", **columns), part)


def test_columns_that_are_not_there_and_no_pyarrow(tmp_path, monkeypatch):
    source = save(tmp_path / "a.parquet", image=embedded())
    fails(source, '"image" holds the images; name another column with --label', label="image")
    fails(source, "Did you mean --label label?", label="lable")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fails(source, "a.parquet is read with pyarrow, which is not installed; run `pip install ")


# ---- files that unpack to far more than they are -----------------------------------------------


def few_values(path, cell, n, column="text", kind=None):
    """A file of some kB: one value, n times."""
    same = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([cell], kind))
    table = pa.table({column: same, "label": ["a", "b"] * (n // 2)})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    return path


POOLS = []  # what was allocated in a pool may outlive the call


def peak_bytes(call):
    """The most that Arrow and Python took meanwhile."""
    usual = pa.default_memory_pool()
    POOLS.append(pool := pa.proxy_memory_pool(usual))
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


def test_a_text_that_stands_in_many_rows(tmp_path, monkeypatch):
    table = parse_parquet(few_values(tmp_path / "b.parquet", "some words", 4000), "b.parquet")
    assert len(set(map(id, table.texts("text")))) == 1
    path = few_values(tmp_path / "a.parquet", "some words " * 10_000, 4000)  # 440 MB
    assert path.stat().st_size < 50_000
    monkeypatch.setattr("warmstart.machine.free_memory", lambda: 100_000_000)
    most = peak_bytes(lambda: fails(path, "a.parquet takes about 440 MB of memory when it is read"))
    assert most < 20_000_000


def test_more_rows_than_fit_are_refused(tmp_path, monkeypatch):
    path = few_values(tmp_path / "a.parquet", "some words", 400_000)
    monkeypatch.setattr("warmstart.machine.free_memory", lambda: 20_000_000)
    fails(path, "a.parquet takes about 26 MB of memory", "leave out rows or columns")


def test_an_image_that_stands_in_many_rows_is_refused_before_it_is_unpacked(tmp_path):
    path = few_values(tmp_path / "a.parquet", bytes(70_000_000), 32, "image", pa.binary())
    most = peak_bytes(lambda: fails(path, "unpacks to more than is plausible; save its images as"))
    assert most < 300_000_000  # of 2.2 GB


def test_a_bomb(tmp_path):
    table = pa.table({"image": [bytes(2**20)] * 80, "label": list("ab") * 40})
    pq.write_table(table, tmp_path / "a.parquet")
    fails(tmp_path / "a.parquet", "a.parquet unpacks to more than is plausible; save its images as")


def test_a_column_of_lists_is_not_unpacked(tmp_path):
    lists = pa.array([[1, 2], None, []] * 4, pa.list_(pa.int64()))
    pq.write_table(pa.table({"box": lists, "label": list("ab") * 6}), tmp_path / "a.parquet")
    assert parse_parquet(tmp_path / "a.parquet", "a").texts("box") == [None, "", None] * 4


# ---- files mapped into memory


@pytest.mark.parametrize("releases", [True, False])
def test_pages_are_released_after_so_many_bytes_and_read_again(tmp_path, monkeypatch, releases):
    monkeypatch.setattr(arrow, "RELEASE_BYTES", 2000)
    if not releases:
        monkeypatch.delattr(arrow.mmap, "MADV_DONTNEED", raising=False)
    content, released = bytes(range(256)) * 100, []
    (tmp_path / "file").write_bytes(content)
    pages, release = Pages(), Pages.release
    monkeypatch.setattr(Pages, "release", lambda self: (released.append(1), release(self)))
    with open(tmp_path / "file", "rb") as file:
        mapped = pages.map(file)
    for start in range(0, len(content), 1000):
        assert mapped[start : start + 1000] == content[start : start + 1000]
        pages.count(1000)
    assert len(released) == 26 // 3
    assert bytes(mapped) == content


READ = """
import sys
from warmstart.data.arrow import parse_parquet, parse_streams

def peak_mb():  # ru_maxrss would begin at that of the process which started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM"))

path = sys.argv[1]
open_it = lambda: parse_parquet(path, "x") if "parquet" in path else parse_streams([path], {}, "x")
open_it().pictures.open()  # pyarrow and its pools are there
before = peak_mb()
stored = open_it().pictures.open()
for _ in range(2):
    for row in range(400):
        assert stored.load(row)[:3] == row.to_bytes(3, "big")
assert peak_mb() - before < 45, peak_mb() - before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_large_table_of_images_stays_on_disk(tmp_path, kind):
    images = pa.array([row.to_bytes(3, "big") + bytes(199_997) for row in range(400)])  # 80 MB
    table, path = pa.table({"image": images}), tmp_path / f"images.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, compression=None, use_dictionary=False)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    assert subprocess.run([sys.executable, "-c", READ, str(path)]).returncode == 0


# ---- images in a Parquet file: a few row groups in memory, whatever the size of the file

N, IN_A_GROUP = 400, 50


def payload(row):
    """Bytes that do not compress, other ones for each row."""
    return random.Random(row).randbytes(5000 + row)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """2 MB in 8 groups; row 7 holds no image."""
    path = tmp_path_factory.mktemp("rows") / "a.parquet"
    cells = [{"bytes": payload(row) if row != 7 else None, "path": None} for row in range(N)]
    table = pa.table({"image": cells, "label": [str(row % 2) for row in range(N)]})
    pq.write_table(table, path, row_group_size=IN_A_GROUP)
    return path


def opened(path):
    groups = RowGroups(
        open=partial(arrow._open_parquet, path), column="image", check=lambda n_bytes: None
    )
    groups.scan()
    return groups


def test_in_order_each_group_is_opened_once_and_few_stay(source, monkeypatch):
    monkeypatch.setattr(arrow, "MEMORY_BYTES", 300_000)  # hardly more than one group
    groups, n_read = opened(source), []
    batches = RowGroups._batches
    monkeypatch.setattr(
        RowGroups, "_batches", lambda self, *args: (n_read.append(1), batches(self, *args))[1]
    )
    assert groups.inside == [row != 7 for row in range(N)]
    assert groups.paths == [None] * N
    with pytest.raises(DataError, match="holds no image"):
        groups.load(7)
    rows = [row for row in range(N) if row != 7]
    assert [groups.load(row) for row in rows] == [payload(row) for row in rows]
    assert (len(n_read), len(groups._groups)) == (8, 2)
    with ThreadPoolExecutor(4) as threads:  # ahead of each other, as decoding is
        assert [*threads.map(groups.load, rows)] == [payload(row) for row in rows]


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """Read from end to end, a file of 12 MB takes no more than one of 3."""
    monkeypatch.setattr(arrow, "MEMORY_BYTES", 500_000)
    peaks = []
    for count in (600, 2400):
        path = tmp_path / f"{count}.parquet"
        schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            for at in range(0, count, 50):
                cells = [random.Random(row).randbytes(5000) for row in range(at, at + 50)]
                writer.write_table(pa.table([cells, ["a", "b"] * 25], schema=schema))
        before, held = pa.total_allocated_bytes(), []
        collection = drain(read(path))
        for example in collection.record.examples:
            collection.load(example.id)
            held.append(pa.total_allocated_bytes() - before)
        peaks.append(max(held))
    assert peaks[1] < 1.2 * peaks[0] < 2_000_000


def test_large_groups_are_unpacked_to_disk(source, monkeypatch):
    plain = parse_parquet(source, "a.parquet").pictures.open()
    monkeypatch.setattr(arrow, "MAX_GROUP_BYTES", 100_000)
    spooled = parse_parquet(source, "a.parquet").pictures.open()
    assert (spooled.inside, [*spooled.paths]) == (plain.inside, [*plain.paths])
    assert [spooled.load(row) for row in (0, 399)] == [plain.load(row) for row in (0, 399)]


def test_a_file_that_was_cut_since_says_so(source, tmp_path):
    groups = opened(shutil.copy(source, tmp_path / "a.parquet"))
    with open(tmp_path / "a.parquet", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"cannot be read from its table any more \(.+\)"):
        groups.load(300)
