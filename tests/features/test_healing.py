"""A cache that is damaged at any byte heals itself: missing rows are computed again, no more."""

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.test_cache import KEY, NAMES, rows_of

from warmstart.features.cache import CacheFile, FeatureCache

KINDS = ["flip", "zeros", "noise", "truncation", "longer", "folder", "gone", "empty"]
damages = st.lists(
    st.tuples(
        st.sampled_from([".rows", ".index", ".json"]),
        st.sampled_from(KINDS),
        st.floats(0, 0.999),
        st.integers(1, 60),
        st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=3,
)


def damage(path: Path, kind: str, share: float, length: int, seed: int) -> None:
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


def check_whole(cache_file: CacheFile) -> None:
    for layer, expected in zip(KEY.feature_layers, rows_of(NAMES), strict=True):
        np.testing.assert_array_equal(cache_file.read(NAMES, layer.name), expected)
    np.testing.assert_array_equal(cache_file.fetch(NAMES), np.concatenate(rows_of(NAMES), axis=1))


@settings(max_examples=200, deadline=None)
@given(hurt=damages, has_read=st.booleans(), writer=st.sampled_from(["before", "after", "both"]))
def test_any_damage_heals_in_one_extraction(hurt, has_read, writer):
    """Who finds what is missing is another `CacheFile` than who appends, as in `check`."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        cache = FeatureCache(Path(folder))
        with cache.cache_file(KEY) as cache_file:
            cache_file.append(NAMES, rows_of(NAMES))
        before = stack.enter_context(cache.cache_file(KEY))
        if has_read:
            check_whole(before)
        for suffix, *how in hurt:
            damage(Path(folder) / (KEY.digest + suffix), *how)
        after = stack.enter_context(cache.cache_file(KEY))
        for cache_file in {"before": [before], "after": [after], "both": [before, after]}[writer]:
            with cache.cache_file(KEY) as finder:
                missing = finder.missing(NAMES)
            cache_file.append(missing, rows_of(missing))
            check_whole(cache_file)
        for cache_file in (before, after):
            missing = cache_file.missing(NAMES)
            cache_file.append(missing, rows_of(missing))
            check_whole(cache_file)
        with cache.cache_file(KEY) as later:
            assert not later.missing(NAMES)
            check_whole(later)


@pytest.mark.parametrize("suffix", [".rows", ".index"])
def test_a_damaged_row_is_written_again_by_a_cache_file_that_did_not_find_it(tmp_path, suffix):
    cache = FeatureCache(tmp_path)
    with cache.cache_file(KEY) as cache_file:
        cache_file.append(NAMES, rows_of(NAMES))
    damage(tmp_path / (KEY.digest + suffix), "flip", 0.5, 1, 3)
    with cache.cache_file(KEY) as finder, cache.cache_file(KEY) as writer:
        (missing,) = finder.missing(NAMES)
        writer.append([missing], rows_of([missing]))
        check_whole(writer)


def test_only_the_damaged_rows_are_missing(tmp_path):
    cache = FeatureCache(tmp_path)
    with cache.cache_file(KEY) as cache_file:
        cache_file.append(NAMES, rows_of(NAMES))
    damage(tmp_path / (KEY.digest + ".json"), "flip", 0.9, 1, 3)
    with cache.cache_file(KEY) as cache_file:
        missing = cache_file.missing(NAMES)
        cache_file.append(missing, rows_of(missing))
    assert cache.info().rows == len(NAMES)  # the rows beside a damaged description were kept


@pytest.mark.parametrize("suffix", [".json", ".rows", ".index"])
def test_folders_in_the_place_of_files_are_counted_cleared_and_evicted(tmp_path, suffix):
    cache = FeatureCache(tmp_path)
    with cache.cache_file(KEY) as cache_file:
        cache_file.append(NAMES, rows_of(NAMES))
    damage(tmp_path / (KEY.digest + suffix), "folder", 0, 1, 0)
    assert cache.info().feature_sets == 1
    cache.clear()
    assert cache.info().feature_sets == 0


@pytest.mark.parametrize("name", ["lock", "unreadable.jsonl", KEY.digest + ".instead"])
def test_folders_in_the_place_of_notes_are_replaced(tmp_path, name):
    (tmp_path / name / "inside").mkdir(parents=True)
    cache = FeatureCache(tmp_path)
    assert cache.quarantined("pillow") == {}
    assert cache.resolve(KEY) == KEY
    cache.quarantine("pillow", NAMES[0], "is damaged")
    cache.redirect(KEY, KEY)
    assert FeatureCache(tmp_path).quarantined("pillow") == {NAMES[0]: "is damaged"}
