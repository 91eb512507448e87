"""Measured speeds are kept, found again only where all is the same, and never harm a run."""

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart.features import cache_key, engine_choice
from warmstart.features.cache import FeatureCache
from warmstart.features.engine_choice import SPEEDS_FILE, EngineWork
from warmstart.planning.rules import EngineSpeed

WORK = EngineWork(
    macs=384_000_000, parameters=4_600_000, feature_layers=35, size=(224, 224, 3), threads=2
)
FAST, SLOW = EngineSpeed(1.5, 160.0), EngineSpeed(0.25, 75.0)


@pytest.fixture
def root(tmp_path):
    """A cache folder."""
    return FeatureCache(tmp_path / "cache").root


def test_what_was_kept_is_read(root):
    assert engine_choice.read_speeds(root, WORK) == {}
    assert engine_choice.keep_speed(root, WORK, "torch", SLOW) == SLOW
    assert engine_choice.keep_speed(root, WORK, "onnxruntime", FAST) == FAST
    assert engine_choice.read_speeds(root, WORK) == {"torch": SLOW, "onnxruntime": FAST}


CHANGES = {
    "macs": 1,
    "parameters": 2,
    "feature_layers": 3,
    "size": (224, 192, 3),
    "threads": 4,
    "arithmetic": "x",
    "cpu": "another",
}


@pytest.mark.parametrize("name", [field.name for field in fields(EngineWork)])
def test_other_work_and_other_machines_are_told_apart(root, name):
    engine_choice.keep_speed(root, WORK, "torch", SLOW)
    other = replace(WORK, **{name: CHANGES[name]})
    assert engine_choice.read_speeds(root, other) == {}
    engine_choice.keep_speed(root, other, "torch", FAST)
    assert engine_choice.read_speeds(root, WORK) == {"torch": SLOW}
    assert engine_choice.read_speeds(root, other) == {"torch": FAST}


def test_another_version_of_an_engine_is_measured_again(root, monkeypatch):
    engine_choice.keep_speed(root, WORK, "onnxruntime", FAST)
    engine_choice.keep_speed(root, WORK, "torch", SLOW)
    monkeypatch.setattr(cache_key, "version_of", lambda name: f"{name} of tomorrow")
    assert engine_choice.read_speeds(root, WORK) == {}


def test_an_engine_that_is_no_longer_installed_is_not_offered(root, monkeypatch):
    engine_choice.keep_speed(root, WORK, "onnxruntime", FAST)
    monkeypatch.setattr(engine_choice, "installed_engines", lambda: ("torch", "traced"))
    assert engine_choice.read_speeds(root, WORK) == {}


def test_the_first_measurement_stays(root):
    """A run that goes on must decide as before, whatever was measured beside it."""
    engine_choice.keep_speed(root, WORK, "torch", SLOW)
    assert engine_choice.keep_speed(root, WORK, "torch", FAST) == SLOW
    assert engine_choice.read_speeds(root, WORK) == {"torch": SLOW}


@settings(max_examples=25)
@given(junk=st.binary(max_size=60), at=st.floats(0, 1))
def test_a_damaged_file_loses_lines_but_never_lies(junk, at):
    with tempfile.TemporaryDirectory() as folder:
        root = FeatureCache(Path(folder)).root
        for threads in (1, 2, 3):
            engine_choice.keep_speed(root, replace(WORK, threads=threads), "torch", SLOW)
        content = (root / SPEEDS_FILE).read_bytes()
        place = int(at * len(content))
        (root / SPEEDS_FILE).write_bytes(content[:place] + junk + content[place + len(junk) :])
        for threads in (1, 2, 3):
            work = replace(WORK, threads=threads)
            result = engine_choice.read_speeds(root, work)
            assert set(result) <= {"torch"}
            assert all(math.isfinite(x) and x > 0 for timing in result.values() for x in timing)
            stored = engine_choice.keep_speed(root, work, "torch", SLOW)
            assert engine_choice.read_speeds(root, work) == {"torch": stored}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "null",
        "3",
        '{"engine": "torch"}',
        "[" * 100_000,
        "\xff",
        '{"setup_s": NaN, "per_second": 1.0}',
        '{"setup_s": 1.0, "per_second": Infinity}',
        '{"setup_s": 1.0, "per_second": 0.0}',
        '{"setup_s": -1.0, "per_second": 3.0}',
        '{"setup_s": "1", "per_second": 3.0}',
        '{"setup_s": true, "per_second": 3.0}',
    ],
)
def test_foreign_lines_are_ignored_and_go(root, line):
    engine_choice.keep_speed(root, WORK, "torch", SLOW)
    own = (root / SPEEDS_FILE).read_text()
    about = {k: v for k, v in json.loads(own).items() if k not in engine_choice._FIGURES}
    about["engine"], about["version"] = "onnxruntime", cache_key.engine_version("onnxruntime")
    if line.startswith("{") and "setup_s" in line:  # sound but for its figures
        line = json.dumps({**about, **json.loads(line)})
    (root / SPEEDS_FILE).write_text(f"{line}\n{own}{line}\n", "utf-8")
    assert engine_choice.read_speeds(root, WORK) == {"torch": SLOW}
    engine_choice.keep_speed(root, WORK, "onnxruntime", FAST)
    assert engine_choice.read_speeds(root, WORK) == {"torch": SLOW, "onnxruntime": FAST}
    assert len((root / SPEEDS_FILE).read_text().splitlines()) == 2


def test_a_file_that_cannot_be_written_stops_nothing(root):
    (root / SPEEDS_FILE).mkdir()
    assert engine_choice.keep_speed(root, WORK, "torch", SLOW) == SLOW
    assert engine_choice.read_speeds(root, WORK) == {}


def test_a_kill_while_writing_leaves_the_file_as_it_was(root, monkeypatch):
    engine_choice.keep_speed(root, WORK, "torch", SLOW)
    before = (root / SPEEDS_FILE).read_bytes()

    def killed(path, payload):
        path.with_name(path.name + ".partial").write_bytes(payload[:40])
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_choice, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        engine_choice.keep_speed(root, WORK, "onnxruntime", FAST)
    monkeypatch.undo()
    assert (root / SPEEDS_FILE).read_bytes() == before
    engine_choice.keep_speed(root, WORK, "onnxruntime", FAST)
    assert len(engine_choice.read_speeds(root, WORK)) == 2


def test_the_file_does_not_grow_without_end(root, monkeypatch):
    monkeypatch.setattr(engine_choice, "MAX_LINES", 3)
    for threads in range(1, 6):
        engine_choice.keep_speed(root, replace(WORK, threads=threads), "torch", SLOW)
    stored = [bool(engine_choice.read_speeds(root, replace(WORK, threads=n))) for n in range(1, 6)]
    assert stored == [False, False, True, True, True]


def test_it_is_no_cache_file_and_is_not_evicted(root):
    engine_choice.keep_speed(root, WORK, "torch", SLOW)
    cache = FeatureCache(root, limit_bytes=1)
    assert cache.info().feature_sets == 0
    assert cache.info().bytes == (root / SPEEDS_FILE).stat().st_size
    cache.clear()
    assert engine_choice.read_speeds(root, WORK) == {"torch": SLOW}
    engine_choice.clear_speeds(root)
    engine_choice.clear_speeds(root)
    assert engine_choice.read_speeds(root, WORK) == {}


WRITER = """
import sys; from pathlib import Path; from dataclasses import replace
sys.path.insert(0, sys.argv[2])
from test_engine_speeds import WORK, EngineSpeed, engine_choice
own = 1.0 + int(sys.argv[3])
for threads in range(1, 31):
    kept = engine_choice.keep_speed(Path(sys.argv[1]), replace(WORK, threads=threads), "torch",
                            EngineSpeed(own, own))
    print(kept.setup)
"""


def test_two_processes_keep_the_same(root):
    here = str(Path(__file__).parent)
    commands = [[sys.executable, "-c", WRITER, str(root), here, str(n)] for n in range(2)]
    writers = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    messages = [writer.communicate()[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert messages[0] == messages[1]  # each learns what is kept, whoever measured it
    assert len((root / SPEEDS_FILE).read_text().splitlines()) == 30


def test_an_engine_is_made_once_and_its_faster_run_counts(monkeypatch):
    now = [0.0]
    waits = iter((0.5, 0.1))

    def make():
        now[0] += 3.0
        return engine

    def engine(images):
        now[0] += next(waits)
        return [images.mean((1, 2))]

    monkeypatch.setattr(engine_choice.time, "perf_counter", lambda: now[0])
    output, timing = engine_choice.measure_speed(make, np.zeros((8, 4, 4, 3), np.uint8))
    assert output is engine
    assert timing == pytest.approx((3.0, 80.0))
