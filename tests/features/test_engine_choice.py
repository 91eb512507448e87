"""The engine: the requested one, or the fastest as far as is known; the same next time."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction import collect, look_at
from hue_images import draw, fill
from tiny import PREP, network
from warmstart.cli import cache
from warmstart.errors import PlanError
from warmstart.events import drain
from warmstart.features import cache_key, engine_choice
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import BATCH, EngineName, installed_engines
from warmstart.features.engine import EngineError
from warmstart.features.engine_choice import (
    SPEEDS_FILE,
    EngineWork,
    check_name,
    choose,
    keep_speed,
    open_engine,
    read_speeds,
    survey_engines,
)
from warmstart.features.extraction import extract_features
from warmstart.features.machine import threads_for
from warmstart.machine import default_root
from warmstart.network.load import load
from warmstart.planning import rules
from warmstart.planning.rules import EngineSpeed
from warmstart.records.plan import Choice

HERE = installed_engines()
each_engine = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason=f"no {name}"))
        for name in get_args(EngineName)
    ],
)


def user(name):
    return Choice(value=name, because="your choice (--set)", source="user")


def base():
    return load(network(), preprocessing=PREP)


def surveyed(pictures):
    return survey_engines(collect(pictures), base())


@pytest.fixture
def usual(monkeypatch):
    """Sets the usual speeds: those engines, at any amount of work, and no other."""

    def set_speeds(**speeds):
        speeds = {name: EngineSpeed(*speed) for name, speed in speeds.items()}
        monkeypatch.setattr(engine_choice, "installed_engines", lambda: tuple(speeds))
        monkeypatch.setattr(rules, "REFERENCE", speeds)
        monkeypatch.setattr(rules, "LEAST_WORK", 1.0)

    return set_speeds


@pytest.fixture
def truly(monkeypatch):
    """Sets what measuring finds, and makes that pay; returns the measured engines, in order."""

    def set_speeds(**speeds):
        measured = []

        def measure_speed(make, images):
            assert len(images) == BATCH
            measured.append(make.args[1])
            return make(), EngineSpeed(*speeds[measured[-1]])

        monkeypatch.setattr(rules, "MEASURED", 1)
        monkeypatch.setattr(rules, "SHORT", 0.0)
        monkeypatch.setattr(engine_choice, "measure_speed", measure_speed)
        return measured

    return set_speeds


@pytest.fixture
def output(monkeypatch):
    """The engines that are made, in order; those in `output.failing` cannot be."""

    class Names(list):
        failing = ()

    names, make = Names(), engine_choice.make_engine

    def making(name, *rest):
        names.append(name)
        if name in names.failing:
            raise EngineError("it cannot")
        return make(name, *rest)

    monkeypatch.setattr(engine_choice, "make_engine", making)
    return names


# ---- by rule


def test_few_images_are_run_by_torch_unmeasured_and_once(pictures, output):
    extracted, notes = look_at(collect(pictures))
    assert (output, notes) == (["torch"], [])
    choice = extracted.engine
    assert (choice.value, choice.source, choice.rule) == ("torch", "rule", "torch")
    assert choice.because.startswith("torch: 36 images in about 0.2 s typically, ")
    survey = surveyed(pictures)
    assert read_speeds(default_root(), survey.work) == {}
    chosen = drain(open_engine(survey))
    assert (chosen.engine, output) == (None, ["torch"])


def test_the_fastest_is_chosen_and_says_how_fast(pictures, usual):
    usual(torch=(0.5, 3.0), onnxruntime=(2.0, 1000.0))
    choice = look_at(collect(pictures))[0].engine
    assert choice.value == "onnxruntime"
    assert choice.because == "ONNX Runtime: 36 images in about 2.0 s typically, torch 12 s"


def test_many_images_are_worth_a_measurement_that_stays(pictures, tmp_path, usual, truly, output):
    """The engine that was measured last is not made again for the extraction."""
    usual(torch=(0.1, 75.0), traced=(0.1, 80.0), onnxruntime=(0.1, 700.0))
    measured = truly(onnxruntime=(50.0, 700.0), traced=(0.1, 90.0))
    choice = look_at(collect(pictures))[0].engine
    assert measured == output == ["onnxruntime", "traced"]
    assert (choice.value, choice.source, choice.rule) == ("traced", "measured", "onnxruntime")
    assert choice.because == "traced torch: 36 images in about 0.5 s here, torch 0.6 s"
    others = fill(tmp_path / "others", {"blue": 12, "red": 12, "green": 12}, seed=7)
    again, _ = look_at(collect(others))
    assert (again.features.n_extracted, again.engine) == (36, choice)
    assert (len(measured), output[2:]) == (2, ["traced"])


def test_an_extraction_that_was_stopped_goes_on_with_the_engine_that_it_had(pictures, usual, truly):
    """Killed between two batches, with what was measured on disk: the same choice, in full."""
    for n in range(40):
        draw(np.random.default_rng(50 + n), n % 3).save(pictures / "blue" / f"more{n}.png")
    usual(torch=(0.1, 75.0), onnxruntime=(0.1, 500.0), traced=(0.1, 100.0))
    measured = truly(onnxruntime=(0.1, 350.0))
    collection = collect(pictures)
    first = drain(choose(survey_engines(collection, base())))
    steps = extract_features(collection, base())
    assert 0 < next(event for event in steps if event.kind == "step").step < 76
    steps.close()
    survey = survey_engines(collection, base())
    assert 0 < survey.counts["onnxruntime"] < survey.counts["torch"] == 76
    for n_missing in (survey.counts["onnxruntime"], 0):
        extracted, _ = look_at(collection)
        assert (extracted.engine, extracted.features.n_extracted) == (first.choice, n_missing)
    assert measured == ["onnxruntime"]


def test_features_that_are_there_keep_their_engine(pictures, usual):
    collection = collect(pictures)
    look_at(collection, engine=user("traced"))
    usual(torch=(0.1, 700.0), traced=(0.5, 75.0))
    assert list(surveyed(pictures).keys) == ["torch", "traced"]  # the installed ones
    extracted, _ = look_at(collection)
    assert (extracted.engine.value, extracted.features.n_extracted) == ("traced", 0)
    assert "the cache holds some of these images from traced torch" in extracted.engine.because


@pytest.mark.parametrize("is_measured", [False, True])
def test_an_engine_that_cannot_be_made_gives_way_once(pictures, usual, truly, output, is_measured):
    """It is not tried again, however many images come later."""
    usual(torch=(1.0, 10.0), onnxruntime=(0.1, 90.0))
    if is_measured:
        truly(torch=(1.0, 10.0))
    output.failing = ["onnxruntime"]
    extracted, notes = look_at(collect(pictures))
    assert (output[0], {*output[1:]}) == ("onnxruntime", {"torch"})
    assert notes == ["it cannot; torch is used instead"]
    assert extracted.engine.because == "the only engine here that can run this network"
    output.clear()
    draw(np.random.default_rng(9), 0).save(pictures / "blue" / "new.png")
    extracted, notes = look_at(collect(pictures))
    assert (output, extracted.engine.value, notes) == (["torch"], "torch", [])
    with pytest.raises(PlanError, match="cannot be run by ONNX Runtime; choose torch"):
        look_at(collect(pictures), engine=user("onnxruntime"))


# ---- as requested


@each_engine
def test_added_images_have_the_rows_that_a_whole_extraction_gives(
    pictures, tmp_path, monkeypatch, name
):
    """Bit for bit, in whatever batches they were run; the rule's word stays beside the user's."""
    first, notes = look_at(collect(pictures), engine=user(name))
    choice = first.engine
    assert (choice.value, choice.source, choice.rule, notes) == (name, "user", "torch", [])
    assert first.features.cache_file.key.engine == name
    for n in range(7):
        draw(np.random.default_rng(90 + n), n % 3).save(pictures / "green" / f"0{n}x.png")
    collection = collect(pictures)
    grown, _ = look_at(collection, engine=user(name))
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "another"))
    whole, _ = look_at(collection, engine=user(name))
    assert (grown.features.n_extracted, whole.features.n_extracted) == (7, 43)
    examples = collection.record.examples
    for layer in grown.feature_layers:
        bits = [extracted.reader(examples)(layer).tobytes() for extracted in (grown, whole)]
        assert bits[0] == bits[1], layer


def test_all_engines_tell_nearly_the_same(pictures):
    collection = collect(pictures)
    results = [look_at(collection, engine=user(name))[0] for name in HERE]
    examples = collection.record.examples
    for one, other in itertools.pairwise(results):
        for layer in one.feature_layers:
            ours, theirs = one.reader(examples)(layer), other.reader(examples)(layer)
            assert np.abs(ours - theirs).max() <= 1e-3 * np.sqrt((ours**2).mean())


def test_a_plan_is_followed_to_the_letter(pictures):
    mine = Choice(value="traced", because="mine", source="user", rule="onnxruntime")
    ruled = Choice(value="traced", because="so", source="measured", rule="torch")
    for requested in (mine, ruled):
        assert look_at(collect(pictures), engine=requested)[0].engine == requested


def test_the_users_own_engine_is_not_replaced_but_that_of_a_plan_is(pictures, output):
    output.failing = ["traced", "onnxruntime"]
    with pytest.raises(PlanError, match=r"training.engine traced: it cannot; choose torch, or"):
        look_at(collect(pictures), engine=user("traced"))
    assert output == ["traced"]
    planned = Choice(value="onnxruntime", because="so", source="rule")
    for note in ("it cannot", "this network cannot be run by ONNX Runtime"):
        extracted, notes = look_at(collect(pictures), engine=planned)
        assert (extracted.engine.value, notes) == ("torch", [f"{note}; torch is used instead"])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("tensorrt", r"tensorrt is not an engine; there are torch, traced\."),
        ("traces", r"traces is not an engine; did you mean traced\?"),
        ("openvino", r"openvino is not installed; run `pip install .*openvino`, or choose torch,"),
        ("onnxruntime", r"onnxruntime is not installed; run `pip install onnxruntime`, or choose"),
    ],
)
def test_an_engine_that_is_none_or_not_installed_is_refused(monkeypatch, name, part):
    monkeypatch.setattr(engine_choice, "installed_engines", lambda: ("torch", "traced"))
    with pytest.raises(PlanError, match=f"^requested: {part}"):
        check_name(name, "requested")


# ---- measured speeds: stored, found again only where all is the same, never harming a run

WORK = EngineWork(
    macs=384_000_000, parameters=4_600_000, feature_layers=35, size=(224, 224, 3), threads=2
)
FAST, SLOW = EngineSpeed(1.5, 160.0), EngineSpeed(0.25, 75.0)


@pytest.fixture
def root(tmp_path):
    """A cache folder."""
    return FeatureCache(tmp_path / "cache").root


def test_the_first_measurement_stays(root, monkeypatch):
    """A run that goes on must decide as before, whatever was measured beside it."""
    assert read_speeds(root, WORK) == {}
    assert keep_speed(root, WORK, "torch", SLOW) == SLOW
    assert keep_speed(root, WORK, "onnxruntime", FAST) == FAST
    assert keep_speed(root, WORK, "torch", FAST) == SLOW
    assert read_speeds(root, WORK) == {"torch": SLOW, "onnxruntime": FAST}
    with monkeypatch.context() as patch:
        patch.setattr(engine_choice, "installed_engines", lambda: ("torch", "traced"))
        assert read_speeds(root, WORK) == {"torch": SLOW}
    monkeypatch.setattr(cache_key, "version_of", lambda name: f"{name} of tomorrow")
    assert read_speeds(root, WORK) == {}


CHANGES = {
    "macs": 1,
    "parameters": 2,
    "feature_layers": 3,
    "size": (224, 192, 3),
    "threads": 4,
    "arithmetic": "x",
    "cpu": "another",
}


def test_other_work_and_other_machines_are_distinguished(root):
    assert CHANGES.keys() == {field.name for field in fields(EngineWork)}
    keep_speed(root, WORK, "torch", SLOW)
    for name, value in CHANGES.items():
        other = replace(WORK, **{name: value})
        assert read_speeds(root, other) == {}
        keep_speed(root, other, "torch", FAST)
        assert read_speeds(root, WORK) == {"torch": SLOW}
        assert read_speeds(root, other) == {"torch": FAST}


def test_speeds_with_other_threads_say_nothing(pictures, monkeypatch, usual):
    usual(torch=(0.1, 75.0), onnxruntime=(0.1, 70.0))
    survey = surveyed(pictures)
    keep_speed(default_root(), survey.work, "onnxruntime", EngineSpeed(0.01, 9000.0))
    assert drain(choose(survey)).choice.value == "onnxruntime"
    monkeypatch.setattr(engine_choice, "threads_for", lambda network: threads_for(network) + 1)
    assert drain(choose(surveyed(pictures))).choice.value == "torch"


@settings(max_examples=20)
@given(junk=st.binary(max_size=60), at=st.floats(0, 1))
def test_a_damaged_file_loses_lines_but_never_lies(junk, at):
    works = [replace(WORK, threads=threads) for threads in (1, 2, 3)]
    with tempfile.TemporaryDirectory() as folder:
        root = FeatureCache(Path(folder)).root
        for work in works:
            keep_speed(root, work, "torch", SLOW)
        content = (root / SPEEDS_FILE).read_bytes()
        place = int(at * len(content))
        (root / SPEEDS_FILE).write_bytes(content[:place] + junk + content[place + len(junk) :])
        for work in works:
            result = read_speeds(root, work)
            assert set(result) <= {"torch"}
            assert all(math.isfinite(x) and x > 0 for speed in result.values() for x in speed)
            assert read_speeds(root, work) in ({}, {"torch": keep_speed(root, work, "torch", SLOW)})


FIGURES = ("NaN, 1.0", "1.0, Infinity", "1.0, 0.0", "-1.0, 3.0", '"1", 3.0', "true, 3.0")


@pytest.mark.parametrize(
    "line", ["", "[]", "3", '{"engine": "torch"}', "[" * 100_000, "\xff", *FIGURES]
)
def test_foreign_lines_are_ignored_and_go(root, line):
    keep_speed(root, WORK, "torch", SLOW)
    own = (root / SPEEDS_FILE).read_text()
    if line in FIGURES:  # sound but for its figures
        version = cache_key.engine_version("onnxruntime")
        members = {**json.loads(own), "engine": "onnxruntime", "version": version}
        values = dict(zip(engine_choice._FIGURES, json.loads(f"[{line}]"), strict=True))
        line = json.dumps(members | values)
    (root / SPEEDS_FILE).write_text(f"{line}\n{own}{line}\n", "utf-8")
    assert read_speeds(root, WORK) == {"torch": SLOW}
    keep_speed(root, WORK, "onnxruntime", FAST)
    assert read_speeds(root, WORK) == {"torch": SLOW, "onnxruntime": FAST}
    assert len((root / SPEEDS_FILE).read_text().splitlines()) == 2


def test_a_file_that_cannot_be_written_and_a_kill_while_writing(root, monkeypatch):
    (root / SPEEDS_FILE).mkdir()
    assert keep_speed(root, WORK, "torch", SLOW) == SLOW
    assert read_speeds(root, WORK) == {}
    (root / SPEEDS_FILE).rmdir()
    keep_speed(root, WORK, "torch", SLOW)

    def killed(path, payload):
        path.with_name(path.name + ".partial").write_bytes(payload[:40])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine_choice, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            keep_speed(root, WORK, "onnxruntime", FAST)
    assert read_speeds(root, WORK) == {"torch": SLOW}
    keep_speed(root, WORK, "onnxruntime", FAST)
    assert len(read_speeds(root, WORK)) == 2


def test_the_file_does_not_grow_without_end(root, monkeypatch):
    monkeypatch.setattr(engine_choice, "MAX_LINES", 3)
    works = [replace(WORK, threads=threads) for threads in range(1, 6)]
    for work in works:
        keep_speed(root, work, "torch", SLOW)
    assert [bool(read_speeds(root, work)) for work in works] == [False, False, True, True, True]


def test_speeds_are_no_features_but_go_when_the_cache_is_cleared(root, monkeypatch):
    keep_speed(root, WORK, "torch", SLOW)
    info = FeatureCache(root, limit_bytes=1).info()
    assert (info.feature_sets, info.bytes) == (0, (root / SPEEDS_FILE).stat().st_size)
    FeatureCache(root).clear()
    assert read_speeds(root, WORK) == {"torch": SLOW}
    monkeypatch.setenv("WARMSTART_CACHE", str(root))
    assert cache.info().bytes == info.bytes
    for _ in range(2):
        cache.clear()
        assert (read_speeds(root, WORK), cache.info().bytes) == ({}, 0)


def keep_many(root, n):
    """What is stored for 30 jobs, after `n` seconds were measured for each."""
    speed = EngineSpeed(n, n)
    works = [replace(WORK, threads=threads) for threads in range(1, 31)]
    return [keep_speed(root, work, "torch", speed) for work in works]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_two_processes_keep_the_same(root):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.starmap(keep_many, [(root, 1.0), (root, 2.0)], chunksize=1)
    assert results[0] == results[1]  # each learns what is stored, whoever measured it
    assert len((root / SPEEDS_FILE).read_text().splitlines()) == 30


def test_an_engine_is_made_once_and_its_faster_run_counts(monkeypatch):
    now, waits = [0.0], iter((0.5, 0.1))

    def make():
        now[0] += 3.0
        return engine

    def engine(images):
        now[0] += next(waits)
        return [images.mean((1, 2))]

    monkeypatch.setattr(engine_choice.time, "perf_counter", lambda: now[0])
    result, speed = engine_choice.measure_speed(make, np.zeros((8, 4, 4, 3), np.uint8))
    assert result is engine
    assert speed == pytest.approx((3.0, 80.0))
