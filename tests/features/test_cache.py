"""The cache gives back what was put in, or says that it is missing: never anything else."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.errors import UsageError
from warmstart.features import cache as features_cache
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import FeatureKey
from warmstart.machine import default_root
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import FeatureLayer

WIDTHS = (3, 5)
KEY = FeatureKey(
    network="ab",
    arch="timm:x",
    blocks=("stem", "body"),
    feature_layers=(FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="neck")),
    preprocessing=Preprocessing(size=(8, 8), resize=8, mean=(0.5,), std=(0.5,)),
    decoder="pillow 11",
    engine="torch",
    engine_version="torch 2.8",
    threads=2,
)
NAMES = [hashlib.sha256(bytes([i])).hexdigest() for i in range(12)]


def rows_of(names):
    """What the network says about these examples: a function of the name alone."""
    seeds = [int(name[:8], 16) for name in names]
    draws = [np.random.default_rng(s).normal(size=sum(WIDTHS)).astype(np.float32) for s in seeds]
    table = np.array(draws, np.float32).reshape(len(names), sum(WIDTHS))
    return [table[:, : WIDTHS[0]], table[:, WIDTHS[0] :]]


def fill(root, names=NAMES, key=KEY, limit_bytes=1 << 20):
    with FeatureCache(root, limit_bytes).cache_file(key) as cache_file:
        cache_file.append(names, rows_of(names))


def check_all_present_are_right(cache_file, names=NAMES):
    """Compare every row that the cache file claims to have; return how many those are."""
    missing = set(cache_file.missing(names))
    present = [name for name in names if name not in missing]
    if present:
        for layer, expected in zip(KEY.feature_layers, rows_of(present), strict=True):
            np.testing.assert_array_equal(cache_file.read(present, layer.name), expected)
    return len(present)


def test_rows_come_back_in_the_requested_order(tmp_path):
    fill(tmp_path)
    requested = [NAMES[7], NAMES[0], NAMES[7]]
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        assert cache_file.widths == {"1.avg": 3, "2.neck": 5}
        np.testing.assert_array_equal(cache_file.read(requested, "2.neck"), rows_of(requested)[1])


def test_missing_names_each_once_in_order(tmp_path):
    fill(tmp_path, NAMES[:4])
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        requested = [NAMES[9], NAMES[2], NAMES[5], NAMES[9]]
        assert cache_file.missing(requested) == [NAMES[9], NAMES[5]]


def test_a_missing_row_and_an_unknown_layer_are_key_errors(tmp_path):
    fill(tmp_path, NAMES[:1])
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        with pytest.raises(KeyError, match=NAMES[1]):
            cache_file.read(NAMES[:2], "1.avg")
        with pytest.raises(KeyError, match=r"9\.avg"):
            cache_file.read(NAMES[:1], "9.avg")


def test_an_example_is_written_once(tmp_path):
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        twice = [NAMES[0], NAMES[0]]
        cache_file.append(twice, rows_of(twice))
        cache_file.append(NAMES[:1], rows_of(NAMES[:1]))
    assert FeatureCache(tmp_path).info().rows == 1


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    fill(tmp_path, NAMES[:2])
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        with pytest.raises(ValueError, match="widths"):
            cache_file.append(
                NAMES[2:3], [np.zeros((1, 4), np.float32), np.zeros((1, 5), np.float32)]
            )
        with pytest.raises(ValueError, match="1 examples, feature layers of"):
            cache_file.append(NAMES[2:3], rows_of(NAMES[2:4]))
        assert check_all_present_are_right(cache_file) == 2


@settings(max_examples=60)
@given(suffix=st.sampled_from([".json", ".rows", ".index"]), share=st.floats(0, 1))
def test_files_torn_at_any_byte_lose_rows_but_never_lie(suffix, share):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root)
        path = root / (KEY.digest + suffix)
        os.truncate(path, int(share * path.stat().st_size))
        with FeatureCache(root).cache_file(KEY) as cache_file:
            check_all_present_are_right(cache_file)
        fill(root)  # and the shelf can be completed
        with FeatureCache(root).cache_file(KEY) as cache_file:
            assert check_all_present_are_right(cache_file) == len(NAMES)


@settings(max_examples=60)
@given(suffix=st.sampled_from([".rows", ".index"]), at=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_one_row_and_never_lies(suffix, at, bit):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root)
        path = root / (KEY.digest + suffix)
        content = bytearray(path.read_bytes())
        content[int(at * len(content))] ^= 1 << bit
        path.write_bytes(content)
        with FeatureCache(root).cache_file(KEY) as cache_file:
            assert check_all_present_are_right(cache_file) == len(NAMES) - 1
            cache_file.append(NAMES, rows_of(NAMES))  # only the bad one is written again
            assert check_all_present_are_right(cache_file) == len(NAMES)
        with FeatureCache(root).cache_file(KEY) as cache_file:
            assert check_all_present_are_right(cache_file) == len(NAMES)


@settings(max_examples=25)
@given(junk=st.binary(min_size=1, max_size=120), suffix=st.sampled_from([".rows", ".index"]))
def test_a_tail_of_junk_is_cut_before_the_next_append(junk, suffix):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root, NAMES[:6])
        with open(root / (KEY.digest + suffix), "ab") as file:
            file.write(junk)
        fill(root)
        with FeatureCache(root).cache_file(KEY) as cache_file:
            assert check_all_present_are_right(cache_file) == len(NAMES)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"feature_layers": 3, "key": {}}', '{"feature_layers": {}}']
)
def test_a_spoilt_description_rebuilds_the_cache_file(tmp_path, text):
    fill(tmp_path)
    (tmp_path / (KEY.digest + ".json")).write_text(text)
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        assert cache_file.missing(NAMES) == NAMES
        cache_file.append(NAMES, rows_of(NAMES))
        assert check_all_present_are_right(cache_file) == len(NAMES)


def test_the_description_is_readable(tmp_path):
    fill(tmp_path)
    described = json.loads((tmp_path / (KEY.digest + ".json")).read_text())
    assert described["feature_layers"] == {"1.avg": 3, "2.neck": 5}
    assert described["key"]["preprocessing"]["size"] == [8, 8]


@pytest.mark.parametrize("n_written", [0, 7, 40])
def test_a_full_disk_leaves_the_cache_file_as_it_was(tmp_path, monkeypatch, n_written):
    fill(tmp_path, NAMES[:5])
    sizes = {p.name: p.stat().st_size for p in tmp_path.iterdir()}

    def full(file, block):
        file.write(block[:n_written])
        raise OSError(errno.ENOSPC, "No space left on device")

    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        monkeypatch.setattr(features_cache, "_write_all", full)
        with pytest.raises(OSError, match="No space left"):
            cache_file.append(NAMES, rows_of(NAMES))
        assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == sizes
        monkeypatch.undo()
        assert check_all_present_are_right(cache_file) == 5
        cache_file.append(NAMES, rows_of(NAMES))
        assert check_all_present_are_right(cache_file) == len(NAMES)


MANY = [hashlib.sha256(i.to_bytes(2, "big")).hexdigest() for i in range(120)]
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


def test_two_processes_append_to_one_cache_file(tmp_path):
    here = str(Path(__file__).parent)
    commands = [[sys.executable, "-c", WRITER, str(tmp_path), here, way] for way in ("up", "down")]
    writers = [subprocess.Popen(command) for command in commands]
    assert [writer.wait() for writer in writers] == [0, 0]
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        assert check_all_present_are_right(cache_file, MANY) == len(MANY)
    assert FeatureCache(tmp_path).info().rows == len(MANY)  # each example once, whoever came first


def test_an_open_cache_file_sees_what_another_appends(tmp_path):
    with (
        FeatureCache(tmp_path).cache_file(KEY) as one,
        FeatureCache(tmp_path).cache_file(KEY) as two,
    ):
        one.append(NAMES[:3], rows_of(NAMES[:3]))
        two.append(NAMES[2:6], rows_of(NAMES[2:6]))
        one.append(NAMES[5:], rows_of(NAMES[5:]))
        assert check_all_present_are_right(one) == len(NAMES)
    assert FeatureCache(tmp_path).info().rows == len(NAMES)


def whole(names):
    return np.concatenate(rows_of(names), axis=1)


def test_fetch_gives_whole_rows_in_the_requested_order(tmp_path):
    fill(tmp_path)
    requested = [NAMES[7], NAMES[0], NAMES[7]]
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        np.testing.assert_array_equal(cache_file.fetch(requested), whole(requested))
        assert cache_file.fetch([]).shape == (0, sum(WIDTHS))
        assert cache_file.columns == {"1.avg": slice(0, 3), "2.neck": slice(3, 8)}


def test_fetch_names_what_is_not_there(tmp_path):
    fill(tmp_path, NAMES[:3])
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        assert cache_file.absent([NAMES[5], NAMES[1], NAMES[4], NAMES[5]]) == [NAMES[5], NAMES[4]]
        with pytest.raises(KeyError, match=NAMES[5]):
            cache_file.fetch([NAMES[1], NAMES[5], NAMES[4]])


def flip(root, name, key=KEY):
    """Damage the row of one of NAMES, as they were written in order."""
    path = root / (key.digest + ".rows")
    content = bytearray(path.read_bytes())
    content[NAMES.index(name) * 4 * sum(WIDTHS) + 13] ^= 4
    path.write_bytes(content)


def test_a_damaged_row_is_found_when_it_is_fetched_and_can_be_written_again(tmp_path):
    fill(tmp_path)
    flip(tmp_path, NAMES[4])
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        assert cache_file.absent(NAMES) == []  # no row was read
        np.testing.assert_array_equal(cache_file.fetch(NAMES[:4]), whole(NAMES[:4]))
        with pytest.raises(KeyError, match=NAMES[4]):
            cache_file.fetch(NAMES[2:7])
        assert cache_file.absent(NAMES) == cache_file.missing(NAMES) == [NAMES[4]]
        cache_file.append(NAMES, rows_of(NAMES))
        np.testing.assert_array_equal(cache_file.fetch(NAMES), whole(NAMES))
        np.testing.assert_array_equal(cache_file.read(NAMES, "2.neck"), rows_of(NAMES)[1])


def test_each_row_is_compared_with_its_crc_the_first_time_only(tmp_path, monkeypatch):
    fill(tmp_path)
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        compared = []
        crc32 = features_cache.zlib.crc32
        monkeypatch.setattr(
            features_cache.zlib, "crc32", lambda block: compared.append(1) or crc32(block)
        )
        for requested in (NAMES[:5], NAMES[3:8], NAMES[:8]):
            cache_file.fetch(requested)
        cache_file.read(NAMES[:8], "1.avg")
        assert len(compared) == 8


@pytest.mark.parametrize("stored", [0, 100, 320])
def test_rows_that_were_cut_off_while_the_cache_file_was_open_are_missing(tmp_path, stored):
    fill(tmp_path)
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        cache_file.missing(NAMES)  # all sound
        os.truncate(tmp_path / (KEY.digest + ".rows"), stored)
        n = stored // (4 * sum(WIDTHS))
        np.testing.assert_array_equal(cache_file.fetch(NAMES[:n]), whole(NAMES[:n]))
        for ask in (cache_file.fetch, lambda names: cache_file.read(names, "2.neck")):
            with pytest.raises(KeyError, match=NAMES[n]):
                ask(NAMES[: n + 1])
        assert cache_file.missing(NAMES[: n + 1]) == [NAMES[n]]


def test_rows_are_fetched_by_several_threads_at_once(tmp_path):
    fill(tmp_path, MANY)
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file, ThreadPoolExecutor(4) as pool:
        draws = [np.random.default_rng(seed).permutation(MANY)[:32].tolist() for seed in range(40)]
        for requested, result in zip(draws, pool.map(cache_file.fetch, draws), strict=True):
            np.testing.assert_array_equal(result, whole(requested))


def test_rows_are_fetched_while_another_process_appends(tmp_path):
    here = str(Path(__file__).parent)
    (tmp_path / "down").touch()  # the writer does not wait for a second one
    fill(tmp_path, MANY[:5])
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), here, "up"])
        while writer.poll() is None:
            np.testing.assert_array_equal(cache_file.fetch(MANY[:5]), whole(MANY[:5]))
        cache_file.append(MANY[:1], rows_of(MANY[:1]))  # learns what the other one wrote
        np.testing.assert_array_equal(cache_file.fetch(MANY), whole(MANY))


def test_a_cache_file_that_is_open_is_fetched_from_after_others_were_evicted_and_cleared(tmp_path):
    first, second = keys(2)
    fill(tmp_path, key=first)
    with FeatureCache(tmp_path).cache_file(first) as used:
        fill(tmp_path, key=second, limit_bytes=1)
        FeatureCache(tmp_path).clear()
        np.testing.assert_array_equal(used.fetch(NAMES), whole(NAMES))


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_rows_of_any_type_are_kept(tmp_path, dtype):
    key = replace(KEY, dtype=dtype)
    values = [(50 * block).astype(dtype) for block in map(np.abs, rows_of(NAMES))]
    with FeatureCache(tmp_path).cache_file(key) as cache_file:
        cache_file.append(NAMES, [block.astype(np.float64) for block in values])
    with FeatureCache(tmp_path).cache_file(key) as cache_file:
        result = cache_file.fetch(NAMES)
        assert result.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(result, np.concatenate(values, axis=1))


def test_a_cache_file_that_was_closed_has_nothing_to_fetch(tmp_path):
    with FeatureCache(tmp_path).cache_file(KEY) as cache_file:
        cache_file.append(NAMES, rows_of(NAMES))
    with pytest.raises(KeyError, match=NAMES[0]):
        cache_file.fetch(NAMES[:1])


def keys(n):
    return [replace(KEY, threads=threads) for threads in range(1, n + 1)]


def age(root, key, seconds):
    path = root / (key.digest + ".json")
    os.utime(path, (seconds, seconds))


def test_the_least_recently_used_cache_file_is_evicted(tmp_path):
    first, second, third = keys(3)
    fill(tmp_path, key=first)
    one_shelf = 12 * (4 * sum(WIDTHS) + 40) + (tmp_path / (first.digest + ".json")).stat().st_size
    fill(tmp_path, key=second)
    age(tmp_path, first, 2_000)
    age(tmp_path, second, 1_000)
    fill(tmp_path, key=third, limit_bytes=int(2.5 * one_shelf))
    present = {p.stem for p in tmp_path.glob("*.json")}
    assert present == {first.digest, third.digest}
    assert not list(tmp_path.glob(second.digest + "*"))


def test_opening_a_cache_file_counts_as_use(tmp_path):
    fill(tmp_path)
    age(tmp_path, KEY, 1_000)
    with FeatureCache(tmp_path).cache_file(KEY):
        assert (tmp_path / (KEY.digest + ".json")).stat().st_mtime > 1_000


def test_a_cache_file_in_use_is_never_evicted_nor_cleared(tmp_path):
    first, second = keys(2)
    fill(tmp_path, key=first)
    with FeatureCache(tmp_path).cache_file(first) as used:
        fill(tmp_path, key=second, limit_bytes=1)
        FeatureCache(tmp_path).clear()
        assert check_all_present_are_right(used) == len(NAMES)
        assert {p.stem for p in tmp_path.glob("*.json")} == {first.digest}
    assert FeatureCache(tmp_path).clear() > 0
    assert FeatureCache(tmp_path).info().feature_sets == 0


def test_info_counts(tmp_path):
    for key in keys(2):
        fill(tmp_path, NAMES[:4], key)
    info = FeatureCache(tmp_path, limit_bytes=123).info()
    assert (info.feature_sets, info.rows, info.limit_bytes, info.path) == (2, 8, 123, str(tmp_path))
    assert info.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_unreadable_examples_are_remembered_per_decoder(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.quarantine("pillow 11", NAMES[0], "a.jpg is truncated")
    with open(tmp_path / "unreadable.jsonl", "ab") as file:
        file.write(b'{"decoder": "pillow 11", "sha')  # a crash in the middle of a line
    cache.quarantine("pillow 11", NAMES[1], "b.jpg is empty")
    assert cache.quarantined("pillow 11") == {
        NAMES[0]: "a.jpg is truncated",
        NAMES[1]: "b.jpg is empty",
    }
    assert cache.quarantined("pillow 12") == {}
    cache.clear()
    assert cache.quarantined("pillow 11") == {}


def test_a_refused_engine_is_remembered_for_its_key_alone(tmp_path):
    cache = FeatureCache(tmp_path)
    requested = replace(KEY, engine="onnxruntime", engine_version="onnxruntime 1")
    assert cache.resolve(requested) == requested
    cache.redirect(requested, KEY)
    assert cache.resolve(requested) == KEY
    other = replace(requested, network="cd")
    assert cache.resolve(other) == other


@pytest.mark.parametrize("text", ["", "[]", '{"engine": "torch"}', '{"engine": 1}'])
def test_a_spoilt_redirect_is_ignored(tmp_path, text):
    (tmp_path / (KEY.digest + ".instead")).write_text(text)
    assert FeatureCache(tmp_path).resolve(KEY) == KEY


def test_a_cache_that_cannot_be_written_names_the_cure(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written .* set WARMSTART_CACHE"):
        FeatureCache(tmp_path / "file" / "cache")


def test_the_default_root_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"


def test_the_cache_never_loads_torch():
    code = "import sys, warmstart.features.cache as s; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
