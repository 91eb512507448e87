"""What a run can begin from, and what is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiny import fit
from warmstart.cli import cache
from warmstart.errors import UsageError
from warmstart.network.registry import models


def test_the_default_base_model_is_listed_and_lies_on_disk():
    listed = {base.name: base for base in models()}
    assert Path(listed["lite0"].where).is_file()
    assert listed["lite0"].parameters == 4_652_008
    assert [base.name for base in models("LITE0")] == ["lite0"]
    assert models("no such network") == ()


def test_the_cache_grows_with_what_was_passed_and_is_emptied(pictures, tmp_path):
    assert (cache.info().rows, cache.info().feature_sets) == (0, 0)
    fit(pictures, out=tmp_path / "a")
    kept = cache.info()
    assert (kept.rows, kept.feature_sets) == (2 * 36, 2)  # features, and a glance at each
    assert kept.path == os.environ["WARMSTART_CACHE"]
    on_disk = sum(path.stat().st_size for path in Path(kept.path).rglob("*") if path.is_file())
    assert kept.bytes == on_disk
    assert kept.bytes <= kept.limit_bytes
    assert cache.clear() == kept
    assert (cache.info().rows, cache.info().bytes) == (0, 0)


def test_a_run_does_not_need_the_cache_once_it_is_finished(pictures, tmp_path):
    run = fit(pictures, out=tmp_path / "a")
    cache.clear()
    (answer,) = run.predict([pictures / "red" / "000.png"])
    assert answer.label == "red"


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, pictures):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "file" / "cache"))
    for work in (cache.info, cache.clear, lambda: fit(pictures, out=tmp_path / "a")):
        with pytest.raises(UsageError, match="set WARMSTART_CACHE to a folder that can"):
            work()
