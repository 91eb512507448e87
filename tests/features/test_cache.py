"""The cache gives back what was put in, or says that it is missing: never anything else."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.errors import ModelError, UsageError
from warmstart.features import cache
from warmstart.features.cache import (
    KEY_BYTES,
    NOWHERE,
    FeatureCache,
    RowIndex,
    StoredFeatures,
    read_rows,
    side_by_side,
)
from warmstart.features.cache_key import FeatureKey
from warmstart.machine import default_root
from warmstart.records.data import Example
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer
from warmstart.solve.kernels import Chunked

SMALL, LARGE = FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="neck")
WIDTHS = (3, 5)
KEY = FeatureKey(
    network="ab",
    arch="timm:x",
    blocks=("stem", "body"),
    feature_layers=(SMALL, LARGE),
    preprocessing=Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,)),
    decoder="pillow 11",
    engine="torch",
    engine_version="torch 2.8",
    threads=2,
)
NAMES = [hashlib.sha256(bytes([i])).hexdigest() for i in range(12)]
MANY = [hashlib.sha256(i.to_bytes(2, "big")).hexdigest() for i in range(120)]


def rows_of(names):
    """What the network says about these examples: a function of the name alone."""
    seeds = [int(name[:8], 16) for name in names]
    draws = [np.random.default_rng(s).normal(size=sum(WIDTHS)).astype(np.float32) for s in seeds]
    table = np.array(draws, np.float32).reshape(len(names), sum(WIDTHS))
    return [table[:, : WIDTHS[0]], table[:, WIDTHS[0] :]]


def whole(names):
    return np.concatenate(rows_of(names), axis=1)


def fill(root, names=NAMES, key=KEY, limit_bytes=1 << 20):
    with FeatureCache(root, limit_bytes).cache_file(key) as cache_file:
        cache_file.append(names, rows_of(names))


def complete(cache_file, names=NAMES):
    """Append what is missing; returns how much that was."""
    missing = cache_file.missing(names)
    cache_file.append(missing, rows_of(missing))
    return len(missing)


def check_present(cache_file, names=NAMES):
    """Compare every row that the cache file claims to have; return how many those are."""
    missing = set(cache_file.missing(names))
    present = [name for name in names if name not in missing]
    if present:
        np.testing.assert_array_equal(cache_file.fetch(present), whole(present))
        for layer, expected in zip(KEY.feature_layers, rows_of(present), strict=True):
            np.testing.assert_array_equal(cache_file.read(present, layer.name), expected)
    return len(present)


@pytest.fixture
def stored(tmp_path):
    """An open cache file with the rows of NAMES."""
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        cache_file.append(NAMES, rows_of(NAMES))
        yield cache_file


# ---- one file


def test_rows_come_back_in_the_requested_order(stored):
    names = [NAMES[7], NAMES[0], NAMES[7]]
    np.testing.assert_array_equal(stored.read(names, "2.neck"), rows_of(names)[1])
    np.testing.assert_array_equal(stored.fetch(names), whole(names))
    assert stored.fetch([]).shape == (0, sum(WIDTHS))
    assert stored.widths == {"1.avg": 3, "2.neck": 5}
    assert stored.columns == {"1.avg": slice(0, 3), "2.neck": slice(3, 8)}


def test_what_is_missing_is_named_once_in_order(stored):
    names = [MANY[9], NAMES[2], MANY[5], MANY[9]]
    assert stored.missing(names) == stored.absent(names) == [MANY[9], MANY[5]]
    for ask in (stored.fetch, lambda names: stored.read(names, "1.avg")):
        with pytest.raises(KeyError, match=MANY[9]):
            ask(names)
    with pytest.raises(KeyError, match=r"9\.avg"):
        stored.read(NAMES[:1], "9.avg")
    stored.close()
    with pytest.raises(KeyError, match=NAMES[0]):
        stored.fetch(NAMES[:1])


def test_an_example_is_written_once_whoever_appends_it(tmp_path):
    with (
        FeatureCache(tmp_path).cache_file(KEY) as one,
        FeatureCache(tmp_path).cache_file(KEY) as two,
    ):
        one.append([NAMES[0], NAMES[0]], rows_of([NAMES[0], NAMES[0]]))
        one.append(NAMES[:3], rows_of(NAMES[:3]))
        two.append(NAMES[2:6], rows_of(NAMES[2:6]))
        one.append(NAMES[5:], rows_of(NAMES[5:]))
        assert check_present(one) == len(NAMES)
    assert FeatureCache(tmp_path).info().rows == len(NAMES)


def test_shapes_that_do_not_fit_are_refused(stored):
    with pytest.raises(ValueError, match="widths"):
        stored.append(MANY[:1], [np.zeros((1, 4), np.float32), np.zeros((1, 5), np.float32)])
    with pytest.raises(ValueError, match="1 examples, feature layers of"):
        stored.append(MANY[:1], rows_of(MANY[:2]))
    assert check_present(stored) == len(NAMES)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_rows_of_any_type(tmp_path, dtype):
    key = replace(KEY, dtype=dtype)
    values = [(50 * block).astype(dtype) for block in map(np.abs, rows_of(NAMES))]
    with FeatureCache(tmp_path).cache_file(key) as cache_file:
        cache_file.append(NAMES, [block.astype(np.float64) for block in values])
    with FeatureCache(tmp_path).cache_file(key) as cache_file:
        result = cache_file.fetch(NAMES)
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, np.concatenate(values, axis=1))


def test_the_description_is_readable(stored, tmp_path):
    described = json.loads((tmp_path / (KEY.digest + ".json")).read_text())
    assert described["feature_layers"] == {"1.avg": 3, "2.neck": 5}
    assert described["key"]["preprocessing"]["size"] == [8, 8]


def test_each_row_is_compared_with_its_crc_the_first_time_only(tmp_path, monkeypatch):
    fill(tmp_path)
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        cache_file.fetch(NAMES)
        monkeypatch.setattr(cache.zlib, "crc32", lambda *_: pytest.fail("compared again"))
        with ThreadPoolExecutor(4) as pool:  # several threads may fetch at once
            for result in pool.map(cache_file.fetch, [NAMES] * 20):
                np.testing.assert_array_equal(result, whole(NAMES))


WRITER = """
import sys, time; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_cache import KEY, MANY, FeatureCache, rows_of
root = Path(sys.argv[1])
order = MANY if sys.argv[3] == "up" else MANY[::-1]
with FeatureCache(root).cache_file(KEY) as cache_file:
    (root / sys.argv[3]).touch()
    while not ((root / "up").exists() and (root / "down").exists()):
        time.sleep(0.001)  # both begin at once
    for name in order:
        cache_file.append([name], rows_of([name]))
"""


def test_two_processes_append_and_a_third_reads(tmp_path):
    fill(tmp_path, MANY[:5])
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        writers = [subprocess.Popen([*command, way]) for way in ("up", "down")]
        while any(writer.poll() is None for writer in writers):
            np.testing.assert_array_equal(cache_file.fetch(MANY[:5]), whole(MANY[:5]))
        assert [writer.wait() for writer in writers] == [0, 0]
        cache_file.append(MANY[:1], rows_of(MANY[:1]))  # learns what the others wrote
        assert check_present(cache_file, MANY) == len(MANY)
    assert FeatureCache(tmp_path).info().rows == len(MANY)


# ---- damage: missing rows are computed again, no more


@pytest.mark.parametrize("n_written", [0, 7, 40])
def test_a_full_disk_leaves_the_cache_file_as_it_was(tmp_path, monkeypatch, n_written):
    fill(tmp_path, NAMES[:5])
    sizes = {p.name: p.stat().st_size for p in tmp_path.iterdir()}

    def full(file, block):
        file.write(block[:n_written])
        raise OSError(errno.ENOSPC, "No space left on device")

    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        monkeypatch.setattr(cache, "_write_all", full)
        with pytest.raises(OSError, match="No space left"):
            cache_file.append(NAMES, rows_of(NAMES))
        assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == sizes
        monkeypatch.undo()
        assert check_present(cache_file) == 5
        complete(cache_file)
        assert check_present(cache_file) == len(NAMES)


KINDS = ["flip", "zeros", "noise", "truncation", "longer", "folder", "gone", "empty"]
SUFFIXES = [".rows", ".index", ".json"]
damages = st.lists(
    st.tuples(
        st.sampled_from(SUFFIXES),
        st.sampled_from(KINDS),
        st.floats(0, 0.999),
        st.integers(1, 60),
        st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=3,
)


def damage(path: Path, kind: str, share: float = 0.5, length: int = 1, seed: int = 3) -> None:
    """Damage the file from `share` of its length on, as disks, crashes and people do."""
    if kind in ("folder", "gone"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if kind == "folder":
            (path / "inside").mkdir(parents=True)
        return
    if not path.is_file():
        return
    content = bytearray(path.read_bytes())
    at, noise = int(share * len(content)), np.random.default_rng(seed).bytes(length)
    if kind == "flip" and content:
        content[at] ^= 1 << seed % 8
    elif kind == "zeros":
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == "noise":
        content[at : at + length] = noise[: len(content[at : at + length])]
    elif kind == "truncation":
        content = content[:at]
    elif kind == "longer":
        content += noise
    elif kind == "empty":
        content = bytearray()
    path.write_bytes(content)
    later = path.stat().st_mtime_ns + 10**9  # the clock of a file system ticks every few ms
    os.utime(path, ns=(later, later))


@settings(max_examples=120, deadline=None)
@given(hurt=damages, has_read=st.booleans(), writer=st.sampled_from(["before", "after", "both"]))
def test_any_damage_heals_in_one_extraction(hurt, has_read, writer):
    """Who finds what is missing is another `CacheFile` than who appends, as in `check`."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        folder_cache = FeatureCache(Path(folder))
        fill(Path(folder))
        before = stack.enter_context(folder_cache.cache_file(KEY))
        if has_read:
            check_present(before)
        for suffix, *how in hurt:
            damage(Path(folder) / (KEY.digest + suffix), *how)
        after = stack.enter_context(folder_cache.cache_file(KEY))
        check_present(after)
        for cache_file in {"before": [before], "after": [after], "both": [before, after]}[writer]:
            with folder_cache.cache_file(KEY) as finder:
                missing = finder.missing(NAMES)
            cache_file.append(missing, rows_of(missing))
            assert check_present(cache_file) == len(NAMES)
        for cache_file in (before, after):
            complete(cache_file)
            assert check_present(cache_file) == len(NAMES)
        with folder_cache.cache_file(KEY) as later:
            assert check_present(later) == len(NAMES)


@settings(max_examples=30)
@given(suffix=st.sampled_from(SUFFIXES[:2]), at=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_one_row(suffix, at, bit):
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        damage(Path(folder) / (KEY.digest + suffix), "flip", at, 1, bit)
        with FeatureCache(Path(folder)).cache_file(KEY) as cache_file:
            assert check_present(cache_file) == len(NAMES) - 1
            assert complete(cache_file) == 1  # only the bad one is written again
        with FeatureCache(Path(folder)).cache_file(KEY) as cache_file:
            assert check_present(cache_file) == len(NAMES)


def test_a_damaged_row_is_found_when_it_is_fetched(tmp_path):
    fill(tmp_path)
    damage(tmp_path / (KEY.digest + ".rows"), "flip", 4.5 / len(NAMES))
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        assert cache_file.absent(NAMES) == []  # no row was read
        np.testing.assert_array_equal(cache_file.fetch(NAMES[:4]), whole(NAMES[:4]))
        with pytest.raises(KeyError, match=NAMES[4]):
            cache_file.fetch(NAMES[2:7])
        assert cache_file.absent(NAMES) == cache_file.missing(NAMES) == [NAMES[4]]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"feature_layers": 3, "key": {}}', '{"feature_layers": {}}']
)
def test_a_damaged_description_leaves_the_rows(tmp_path, text):
    fill(tmp_path)
    (tmp_path / (KEY.digest + ".json")).write_text(text)
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        assert cache_file.missing(NAMES) == NAMES
        complete(cache_file)
        assert check_present(cache_file) == len(NAMES)
    assert FeatureCache(tmp_path).info().rows == len(NAMES)


# ---- the folder


def age(root, key, seconds):
    os.utime(root / (key.digest + ".json"), (seconds, seconds))


def test_the_least_recently_used_cache_file_is_evicted(tmp_path):
    first, second, third = (replace(KEY, threads=threads) for threads in range(1, 4))
    fill(tmp_path, key=first)
    n_bytes = sum(p.stat().st_size for p in tmp_path.glob(first.digest + "*"))
    fill(tmp_path, key=second)
    age(tmp_path, first, 2_000)
    age(tmp_path, second, 1_000)
    fill(tmp_path, key=third, limit_bytes=int(2.5 * n_bytes))
    assert {p.stem for p in tmp_path.glob("*.json")} == {first.digest, third.digest}
    assert not list(tmp_path.glob(second.digest + "*"))
    with FeatureCache(tmp_path).cache_file(first):  # opening counts as use
        assert (tmp_path / (first.digest + ".json")).stat().st_mtime > 2_000


def test_a_cache_file_in_use_is_never_evicted_nor_cleared(stored, tmp_path):
    fill(tmp_path, key=replace(KEY, threads=9), limit_bytes=1)
    FeatureCache(tmp_path).clear()
    assert {p.stem for p in tmp_path.glob("*.json")} == {KEY.digest}
    assert check_present(stored) == len(NAMES)
    stored.close()
    assert FeatureCache(tmp_path).clear() > 0
    assert FeatureCache(tmp_path).info().feature_sets == 0


def test_info_counts(tmp_path):
    for threads in (1, 2):
        fill(tmp_path, NAMES[:4], replace(KEY, threads=threads))
    info = FeatureCache(tmp_path, limit_bytes=123).info()
    assert (info.feature_sets, info.rows, info.limit_bytes, info.path) == (2, 8, 123, str(tmp_path))
    assert info.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folders_in_the_place_of_files_are_counted_and_cleared(tmp_path, suffix):
    fill(tmp_path)
    damage(tmp_path / (KEY.digest + suffix), "folder")
    assert FeatureCache(tmp_path).info().feature_sets == 1
    FeatureCache(tmp_path).clear()
    assert FeatureCache(tmp_path).info().feature_sets == 0


@pytest.mark.parametrize("name", ["lock", "unreadable.jsonl", KEY.digest + ".instead"])
def test_folders_in_the_place_of_notes_are_replaced(tmp_path, name):
    (tmp_path / name / "inside").mkdir(parents=True)
    folder_cache = FeatureCache(tmp_path)
    assert folder_cache.quarantined("pillow") == {}
    assert folder_cache.resolve(KEY) == KEY
    folder_cache.quarantine("pillow", NAMES[0], "is damaged")
    folder_cache.redirect(KEY, KEY)
    assert FeatureCache(tmp_path).quarantined("pillow") == {NAMES[0]: "is damaged"}


def test_unreadable_examples_are_remembered_per_decoder(tmp_path):
    folder_cache, reasons = FeatureCache(tmp_path), {NAMES[0]: "is cut", NAMES[1]: "is empty"}
    folder_cache.quarantine("pillow 11", NAMES[0], "is cut")
    with open(tmp_path / "unreadable.jsonl", "ab") as file:
        file.write(b'{"decoder": "pillow 11", "sha')  # a crash in the middle of a line
    folder_cache.quarantine("pillow 11", NAMES[1], "is empty")
    assert folder_cache.quarantined("pillow 11") == reasons
    assert folder_cache.quarantined("pillow 12") == {}
    folder_cache.clear()
    assert folder_cache.quarantined("pillow 11") == {}


def test_a_refused_engine_is_remembered_for_its_key_alone(tmp_path):
    folder_cache = FeatureCache(tmp_path)
    refused = replace(KEY, engine="onnxruntime", engine_version="onnxruntime 1")
    assert folder_cache.resolve(refused) == refused
    folder_cache.redirect(refused, KEY)
    assert folder_cache.resolve(refused) == KEY
    other = replace(refused, network="cd")
    assert folder_cache.resolve(other) == other
    for text in ("", "[]", '{"engine": "torch"}', '{"engine": 1}'):
        (tmp_path / (refused.digest + ".instead")).write_text(text)
        assert folder_cache.resolve(refused) == refused


def test_a_cache_that_cannot_be_written_names_the_cure(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written .* set WARMSTART_CACHE"):
        FeatureCache(tmp_path / "file" / "cache")
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"


# ---- the index in memory

# Few contents, so that many come again; some begin with the same eight bytes.
CONTENTS = [f"{head:02x}" * 8 + f"{tail:02x}" * 24 for head in (0, 7, 255) for tail in range(5)]
steps = st.lists(st.tuples(st.sampled_from([*CONTENTS, None]), st.booleans(), st.booleans()))


@given(rows=steps, n_unsorted=st.integers(0, 6))
def test_rows_are_found_as_by_a_dict(rows, n_unsorted):
    """A row without a content is not one whose content is zeros."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_UNSORTED", n_unsorted)
        index, plain = RowIndex(), {}
        for row, (content, is_verified, is_damaged) in enumerate(rows):
            index.add([content], [row + 100], is_verified=is_verified)
            if content is None:
                continue
            plain[content] = row
            assert index.are_verified(index.find([content])).tolist() == [is_verified]
            if is_damaged:
                index.mark(index.find([content]), np.array([False]))
                del plain[content]
        assert len(index) == len(rows)
        result = index.find(CONTENTS)
        assert result.tolist() == [plain.get(content, NOWHERE) for content in CONTENTS]
        assert (index.crcs(result[result >= 0]) == result[result >= 0] + 100).all()


def test_many_rows_take_little_memory():
    n = 30_000
    names = [hashlib.sha256(n.to_bytes(2, "big")).hexdigest() for n in range(n)]
    tracemalloc.start()
    index = RowIndex()
    index.add(names, range(n), is_verified=True)
    stored_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert stored_bytes < 130 * n  # a dict and a set take 400
    assert (index.find(names) == np.arange(n)).all()
    assert len(names[0]) == 2 * KEY_BYTES


# ---- rows of a file

CONTENT = np.random.default_rng(0).integers(256, size=5000, dtype=np.uint8).tobytes()


@pytest.fixture(scope="module", params=[True, False], ids=["preadv", "seek"])
def file(request, tmp_path_factory):
    """An open file, read in either way that systems offer."""
    path = tmp_path_factory.mktemp("rows") / "rows"
    path.write_bytes(CONTENT)
    with open(path, "rb", buffering=0) as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_HAS_PREADV", request.param and cache._HAS_PREADV)
        yield opened


@settings(max_examples=40)
@given(
    offsets=st.lists(st.integers(0, 6000), max_size=20),
    width=st.integers(0, 90),
    dtype=st.sampled_from(["u1", "f2", "f4"]),
)
def test_rows_are_the_bytes_at_their_offsets(file, offsets, width, dtype):
    out = np.empty((len(offsets), width), dtype)
    short, size = read_rows(file, offsets, out), width * out.itemsize
    assert short == [i for i, at in enumerate(offsets) if size and at + size > len(CONTENT)]
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


def test_several_threads_read_one_file(file):
    def check(seed):
        offsets = np.random.default_rng(seed).integers(4900, size=200).tolist()
        out = np.empty((200, 100), np.uint8)
        assert read_rows(file, offsets, out) == []
        return [row.tobytes() for row in out] == [CONTENT[at : at + 100] for at in offsets]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, range(8)))


@settings(max_examples=40)
@given(rows=st.lists(st.integers(0, 9), max_size=25), chunk=st.integers(1, 200))
def test_blocks_side_by_side_are_the_whole(rows, chunk):
    rng = np.random.default_rng(1)
    columns = [rng.normal(size=(10, width)).astype(np.float32) for width in (3, 1, 4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WRITE_BYTES", chunk)
        blocks = list(side_by_side(rows, columns, np.dtype(np.float16)))
    expected = np.concatenate(columns, axis=1)[rows].astype(np.float16)
    result = np.concatenate([*blocks, np.empty((0, 8), np.float16)])
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.float16
    assert all(len(block) == 1 or block.nbytes <= chunk for block in blocks)


MEMORY = """
import sys
import numpy as np
from pathlib import Path
from warmstart.features.cache_key import Column, ScratchKey
from warmstart.features.cache import FeatureCache

def peak_mb():  # ru_maxrss would begin at that of the process which started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM"))

names, rng = [f"{i:064x}" for i in range(400)], np.random.default_rng(0)
key = ScratchKey(feature_layers=(Column(name="small"), Column(name="main")))
with FeatureCache(Path(sys.argv[1])).cache_file(key) as cache_file:
    if sys.argv[2] == "write":
        main = np.full((400, 40_000), np.arange(400, dtype=np.float32)[:, None])  # 64 MB
    before = peak_mb()
    if sys.argv[2] == "write":
        cache_file.append(names, [main[:, :4], main])
    else:
        assert cache_file.missing(names) == []
        assert (cache_file.read(names, "small") == np.arange(400)[:, None]).all()
        for _ in range(40):
            rows = rng.integers(400, size=16)  # 2.5 MB
            assert (cache_file.fetch([names[row] for row in rows]) == rows[:, None]).all()
    assert peak_mb() - before < 25, peak_mb() - before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_cache_file_is_written_and_read_without_ever_lying_in_memory(tmp_path):
    for work in ("write", "read"):
        assert subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path), work]).returncode == 0


# ---- features of some examples

EXAMPLES = tuple(
    Example(id=f"{n}.png", label="a", split="train", sha256=name) for n, name in enumerate(NAMES)
)


def joined(reader, layers):
    chunks = [*reader.chunks(layers)]
    return {layer: np.concatenate([chunk[layer] for chunk in chunks]) for layer in layers}, chunks


@pytest.mark.parametrize("layers", [[SMALL], [LARGE], [SMALL, LARGE], [LARGE, SMALL]])
@pytest.mark.parametrize("n_bytes", [1, 100, 10**6])
def test_chunks_are_all_rows_in_order(stored, monkeypatch, layers, n_bytes):
    monkeypatch.setattr(cache, "CHUNK_BYTES", n_bytes)
    monkeypatch.setattr(cache, "CHUNK_ROWS", 5)
    reader = StoredFeatures(stored, EXAMPLES)
    result, chunks = joined(reader, layers)
    for layer in layers:
        np.testing.assert_array_equal(result[layer], rows_of(NAMES)[layer.block - 1])
        np.testing.assert_array_equal(result[layer], reader(layer))
    assert max(len(chunk[layers[0]]) for chunk in chunks) <= min(5, max(n_bytes // 12, 1))
    assert isinstance(reader, Chunked)


def test_some_rows_in_their_order_none_and_unknown_ones(stored):
    reader = StoredFeatures(stored, EXAMPLES).some(np.array([7, 2, 7])).some(np.array([1, 0]))
    expected = rows_of(NAMES)[1][[2, 7]]
    np.testing.assert_array_equal(reader(LARGE), expected)
    np.testing.assert_array_equal(joined(reader, [LARGE])[0][LARGE], expected)
    result, _ = joined(StoredFeatures(stored, ()), [SMALL, LARGE])
    assert [values.shape for values in result.values()] == [(0, 3), (0, 5)]
    stranger = replace(EXAMPLES[0], sha256="0" * 64)
    with pytest.raises(KeyError, match="0" * 64):
        joined(StoredFeatures(stored, (*EXAMPLES, stranger)), [LARGE])


def test_values_that_are_no_numbers_are_counted_over_all_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK_ROWS", 4)
    values = [block.copy() for block in rows_of(NAMES)]
    values[1][[5, 10], 2] = np.nan, np.inf
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        cache_file.append(NAMES, values)
        reader = StoredFeatures(cache_file, EXAMPLES)
        reader(SMALL)
        part = r"not numbers for 2 of 12 images \(first: 5.png, at block 2\)"
        for ask in (
            lambda: reader(LARGE),
            lambda: joined(reader, [SMALL, LARGE]),
            lambda: reader.some(np.arange(8, 12))(LARGE),
        ):
            with pytest.raises(ModelError, match=part):
                ask()
