"""Images in a Parquet file: a few row groups in memory, whatever the size of the file."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from warmstart.data import arrow
from warmstart.data.arrow import RowGroups, payload_of
from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

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


def opened(source):
    groups = RowGroups(
        open=partial(arrow._open_parquet, source), column="image", check=lambda n_bytes: None
    )
    groups.scan()
    return groups


def test_a_row_is_found_in_its_group(source):
    groups = opened(source)
    assert groups.inside == [row != 7 for row in range(N)]
    assert groups.paths == [None] * N
    for row in (0, 49, 50, 399, 8, 151):
        assert groups.load(row) == payload(row)
    with pytest.raises(DataError, match="holds no image"):
        groups.load(7)


def test_in_order_each_group_is_opened_once_and_few_are_kept(source, monkeypatch):
    monkeypatch.setattr(arrow, "MEMORY_BYTES", 300_000)  # hardly more than one group
    groups = opened(source)
    for row in range(N):
        if row != 7:
            assert groups.load(row) == payload(row)
    assert groups.unpacked == 8
    assert len(groups._groups) == 2


def test_several_threads_may_ask(source, monkeypatch):
    monkeypatch.setattr(arrow, "MEMORY_BYTES", 300_000)
    groups, rows = opened(source), [row for row in range(N) if row != 7]
    with ThreadPoolExecutor(4) as threads:  # ahead of each other, as decoding is
        assert [*threads.map(groups.load, rows)] == [payload(row) for row in rows]


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """Read from end to end, a file of 24 MB takes no more than one of 6."""
    monkeypatch.setattr(arrow, "MEMORY_BYTES", 1_000_000)
    peaks = []
    for count in (1200, 4800):
        path = tmp_path / f"{count}.parquet"
        schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            for at in range(0, count, 100):
                cells = [random.Random(row).randbytes(5000) for row in range(at, at + 100)]
                writer.write_table(pa.table([cells, ["a", "b"] * 50], schema=schema))
        before = pa.total_allocated_bytes()
        held = []
        collection = drain(read(path))
        for example in collection.record.examples:
            collection.load(example.id)
            held.append(pa.total_allocated_bytes() - before)
        peaks.append(max(held))
    assert peaks[1] < 1.2 * peaks[0] < 4_000_000


def test_large_groups_are_unpacked_to_disk(source, monkeypatch):
    plain = arrow.parse_parquet(source, "a.parquet").pictures.open()
    monkeypatch.setattr(arrow, "MAX_GROUP_BYTES", 100_000)
    spooled = arrow.parse_parquet(source, "a.parquet").pictures.open()
    assert (spooled.inside, [*spooled.paths]) == (plain.inside, [*plain.paths])
    assert [spooled.load(row) for row in (0, 399)] == [plain.load(row) for row in (0, 399)]


def test_a_file_that_was_cut_since_says_so(source, tmp_path):
    copy = tmp_path / "a.parquet"
    copy.write_bytes(source.read_bytes())
    groups = opened(copy)
    with open(copy, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"cannot be read from its table any more \(.+\)"):
        groups.load(300)


def test_what_is_larger_than_any_image_is_left_out(monkeypatch):
    monkeypatch.setattr(arrow, "MAX_FILE_BYTES", 2)
    with pytest.raises(DataError, match="is larger than 512 MB"):
        payload_of(pa.scalar(b"abc"))
