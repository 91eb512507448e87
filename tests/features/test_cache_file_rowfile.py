"""Bytes come back from where they stand, whatever the system offers for reading them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.features import cache
from warmstart.features.cache import read_rows, side_by_side

CONTENT = np.random.default_rng(0).integers(256, size=5000, dtype=np.uint8).tobytes()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows"
    path.write_bytes(CONTENT)
    with open(path, "rb", buffering=0) as opened:
        yield opened


@pytest.fixture(params=[True, False], ids=["preadv", "seek"], scope="module")
def has_preadv(request):
    before, cache._HAS_PREADV = cache._HAS_PREADV, request.param
    yield request.param
    cache._HAS_PREADV = before


@settings(max_examples=60)
@given(
    offsets=st.lists(st.integers(0, 6000), max_size=20),
    width=st.integers(1, 90),
    dtype=st.sampled_from(["u1", "f2", "f4"]),
)
def test_rows_are_the_bytes_at_their_offsets(file, has_preadv, offsets, width, dtype):
    out = np.empty((len(offsets), width), dtype)
    short = read_rows(file, offsets, out)
    size = width * out.itemsize
    assert short == [i for i, at in enumerate(offsets) if at + size > len(CONTENT)]
    for place, at in enumerate(offsets):
        if place not in short:
            assert out[place].tobytes() == CONTENT[at : at + size]


def test_a_read_that_the_system_cuts_short_is_gone_on_with(file, monkeypatch):
    requested = []

    def little(file, into, offset):
        requested.append(len(into))
        block = CONTENT[offset : offset + min(len(into), 7)]
        into[: len(block)] = block
        return len(block)

    monkeypatch.setattr(cache, "_read_at", little)
    out = np.empty((2, 20), np.uint8)
    assert read_rows(file, [0, 4990], out) == [1]
    assert out[0].tobytes() == CONTENT[:20]
    assert requested == [20, 13, 6, 20, 13, 10]  # the last one finds the end


def test_no_rows_and_no_columns_are_read_as_nothing(file):
    assert read_rows(file, [], np.empty((0, 3), np.float32)) == []
    assert read_rows(file, [0, 1], np.empty((2, 0), np.float32)) == []


def test_several_threads_read_one_file(file, has_preadv):
    def check(seed):
        offsets = np.random.default_rng(seed).integers(4900, size=200).tolist()
        out = np.empty((200, 100), np.uint8)
        assert read_rows(file, offsets, out) == []
        expected = [CONTENT[at : at + 100] for at in offsets]
        return [row.tobytes() for row in out] == expected

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, range(8)))


@settings(max_examples=40)
@given(rows=st.lists(st.integers(0, 9), max_size=25), chunk=st.integers(1, 200))
def test_blocks_side_by_side_are_the_whole(rows, chunk):
    rng = np.random.default_rng(1)
    columns = [rng.normal(size=(10, width)).astype(np.float32) for width in (3, 1, 4)]
    before, cache.WRITE_BYTES = cache.WRITE_BYTES, chunk
    try:
        blocks = list(side_by_side(rows, columns, np.dtype(np.float16)))
    finally:
        cache.WRITE_BYTES = before
    whole = np.concatenate(columns, axis=1)[rows].astype(np.float16)
    result = np.concatenate([*blocks, np.empty((0, 8), np.float16)])
    np.testing.assert_array_equal(result, whole)
    assert result.dtype == np.float16
    assert all(len(block) == 1 or block.nbytes <= chunk for block in blocks)


COMMON = """
import sys
import numpy as np
from pathlib import Path
from warmstart.features.cache_key import Column
from warmstart.features.cache import FeatureCache

class Key:
    feature_layers = (Column(name="small"), Column(name="main"))
    dtype, digest, plain = "float32", "k", {}

def peak_mb():  # ru_maxrss would begin at that of the process which started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM"))

names, rng = [f"{i:064x}" for i in range(400)], np.random.default_rng(0)
with FeatureCache(Path(sys.argv[1])).cache_file(Key()) as cache_file:
"""
WRITE = """
    main = np.full((400, 40_000), np.arange(400, dtype=np.float32)[:, None])  # 64 MB
    before = peak_mb()
    cache_file.append(names, [main[:, :4], main])
    assert peak_mb() - before < 25, peak_mb() - before
"""
READ = """
    before = peak_mb()
    assert cache_file.missing(names) == []
    assert (cache_file.read(names, "small") == np.arange(400)[:, None]).all()
    for _ in range(40):
        rows = rng.integers(400, size=16)  # 2.5 MB
        assert (cache_file.fetch([names[row] for row in rows]) == rows[:, None]).all()
    assert peak_mb() - before < 25, peak_mb() - before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_cache_file_is_written_and_read_without_ever_lying_in_memory(tmp_path):
    for work in (WRITE, READ):
        command = [sys.executable, "-c", COMMON + work, str(tmp_path)]
        assert subprocess.run(command).returncode == 0
