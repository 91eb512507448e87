"""The engine: the requested one, or the fastest as far as is known; the same next time."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest

from extraction import collect, look_at
from hue_images import draw, fill
from tiny import PREP, network
from warmstart.errors import PlanError
from warmstart.events import drain, follow
from warmstart.features import engine_choice
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_key import BATCH, EngineName, installed_engines
from warmstart.features.engine import EngineError
from warmstart.features.engine_choice import check_name, choose, open_engine, survey_engines
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


def usual(monkeypatch, **estimate_speeds):
    """Usual figures: those engines, at any amount of work, and no other."""
    result = {name: EngineSpeed(*pace) for name, pace in estimate_speeds.items()}
    monkeypatch.setattr(engine_choice, "installed_engines", lambda: tuple(result))
    monkeypatch.setattr(engine_choice, "installed_engines", lambda: tuple(result))
    monkeypatch.setattr(rules, "REFERENCE", result)
    monkeypatch.setattr(rules, "LEAST_WORK", 1.0)


def eager_to_measure(monkeypatch):
    """Measuring pays, however short the extraction."""
    monkeypatch.setattr(rules, "MEASURED", 1)
    monkeypatch.setattr(rules, "SHORT", 0.0)


def truly(monkeypatch, **estimate_speeds):
    """What a measurement finds; the engines that were measured, in order."""
    measured = []

    def measure(make, images):
        assert len(images) == BATCH
        name = make.args[1]
        measured.append(name)
        return make(), EngineSpeed(*estimate_speeds[name])

    monkeypatch.setattr(engine_choice, "measure", measure)
    return measured


def output(monkeypatch, failing=()):
    """The engines that are made, in order; some cannot be."""
    names, make = [], engine_choice.make_engine

    def making(name, *rest):
        names.append(name)
        if name in failing:
            raise EngineError("it cannot")
        return make(name, *rest)

    monkeypatch.setattr(engine_choice, "make_engine", making)
    return names


# ---- by rule -----------------------------------------------------------------------------


def test_few_images_are_run_by_torch_unmeasured(pictures, monkeypatch):
    names = output(monkeypatch)
    extracted, notes = look_at(collect(pictures))
    assert (names, notes) == (["torch"], [])
    choice = extracted.engine
    assert (choice.value, choice.source, choice.rule) == ("torch", "rule", "torch")
    assert choice.because.startswith("torch: 36 images in about 0.2 s typically, ")
    assert engine_choice.read_speeds(default_root(), surveyed(pictures).work) == {}


def test_the_fastest_is_taken_and_says_how_fast(pictures, monkeypatch):
    usual(monkeypatch, torch=(0.5, 3.0), onnxruntime=(2.0, 1000.0))
    extracted, _ = look_at(collect(pictures))
    assert extracted.engine.value == "onnxruntime"
    assert (
        extracted.engine.because == "ONNX Runtime: 36 images in about 2.0 s typically, torch 12 s"
    )


def test_many_images_are_worth_a_measurement_that_stays(pictures, tmp_path, monkeypatch):
    usual(monkeypatch, torch=(0.1, 75.0), traced=(0.1, 80.0), onnxruntime=(0.1, 700.0))
    eager_to_measure(monkeypatch)
    measured = truly(monkeypatch, onnxruntime=(50.0, 700.0), traced=(0.1, 90.0))
    names = output(monkeypatch)
    extracted, _ = look_at(collect(pictures))
    choice = extracted.engine
    assert measured == names == ["onnxruntime", "traced"]
    assert (choice.value, choice.source, choice.rule) == ("traced", "measured", "onnxruntime")
    assert choice.because == "traced torch: 36 images in about 0.5 s here, torch 0.6 s"
    others = fill(tmp_path / "others", {"blue": 12, "red": 12, "green": 12}, seed=7)
    again, _ = look_at(collect(others))
    assert (again.features.n_extracted, again.engine) == (36, choice)
    assert (len(measured), names[2:]) == (2, ["traced"])


def test_the_engine_that_was_measured_is_not_made_again_for_the_extraction(pictures, monkeypatch):
    usual(monkeypatch, torch=(0.1, 75.0), onnxruntime=(0.1, 700.0))
    eager_to_measure(monkeypatch)
    truly(monkeypatch, onnxruntime=(0.05, 500.0))
    names = output(monkeypatch)
    extracted, _ = look_at(collect(pictures))
    assert names == ["onnxruntime"]
    assert (extracted.engine.value, extracted.engine.source) == ("onnxruntime", "measured")
    assert extracted.engine.because == "ONNX Runtime: 36 images in about 0.1 s here, torch 0.8 s"


def test_a_extraction_that_was_stopped_goes_on_with_the_engine_that_it_had(pictures, monkeypatch):
    """Killed between two batches, with what was measured on disk: the same choice, in full."""
    for n in range(40):
        draw(np.random.default_rng(50 + n), n % 3).save(pictures / "blue" / f"more{n}.png")
    usual(monkeypatch, torch=(0.1, 75.0), onnxruntime=(0.1, 500.0), traced=(0.1, 100.0))
    eager_to_measure(monkeypatch)
    measured = truly(monkeypatch, onnxruntime=(0.1, 350.0))
    collection = collect(pictures)
    first = drain(choose(survey_engines(collection, base())))
    steps = extract_features(collection, base())
    passed = next(event for event in steps if event.kind == "step")
    assert 0 < passed.step < 76
    steps.close()
    survey = survey_engines(collection, base())
    assert 0 < survey.counts["onnxruntime"] < survey.counts["torch"] == 76
    extracted, _ = look_at(collection)
    assert (extracted.engine, measured) == (first.choice, ["onnxruntime"])
    whole, _ = look_at(collection)
    assert (whole.engine, whole.features.n_extracted) == (first.choice, 0)


def test_features_that_are_there_keep_their_engine(pictures, monkeypatch):
    collection = collect(pictures)
    look_at(collection, engine=user("traced"))
    usual(monkeypatch, torch=(0.1, 700.0), traced=(0.5, 75.0))
    extracted, _ = look_at(collection)
    assert (extracted.engine.value, extracted.features.n_extracted) == ("traced", 0)
    assert "the cache holds some of these images from traced torch" in extracted.engine.because


def test_an_engine_that_cannot_be_made_gives_way_once(pictures, monkeypatch):
    """It is not tried again, however many images come later."""
    usual(monkeypatch, torch=(1.0, 10.0), traced=(1.0, 10.0), onnxruntime=(0.1, 90.0))
    names = output(monkeypatch, failing=["onnxruntime"])
    extracted, notes = look_at(collect(pictures))
    assert (names, extracted.engine.value) == (["onnxruntime", "torch"], "torch")
    assert notes == ["it cannot; torch is used instead"]
    draw(np.random.default_rng(9), 0).save(pictures / "blue" / "new.png")
    extracted, notes = look_at(collect(pictures))
    assert (names[2:], extracted.engine.value, notes) == (["torch"], "torch", [])


def test_one_that_fails_while_it_is_measured_gives_way_too(pictures, monkeypatch):
    usual(monkeypatch, torch=(0.1, 75.0), onnxruntime=(0.1, 700.0))
    eager_to_measure(monkeypatch)
    names = output(monkeypatch, failing=["onnxruntime"])
    extracted, notes = look_at(collect(pictures))
    assert (extracted.engine.value, notes) == ("torch", ["it cannot; torch is used instead"])
    assert extracted.engine.because == "the only engine here that can run this network"
    assert names[0] == "onnxruntime"
    assert set(names[1:]) == {"torch"}


def test_an_engine_that_is_not_installed_is_not_offered(pictures, monkeypatch):
    usual(monkeypatch, torch=(0.1, 75.0), traced=(0.1, 80.0))
    assert list(surveyed(pictures).keys) == ["torch", "traced"]


def test_speeds_with_other_threads_say_nothing(pictures, monkeypatch):
    usual(monkeypatch, torch=(0.1, 75.0), onnxruntime=(0.1, 70.0))
    survey = surveyed(pictures)
    engine_choice.keep_speed(
        survey.feature_cache.root, survey.work, "onnxruntime", EngineSpeed(0.01, 9000.0)
    )
    assert drain(choose(survey)).choice.value == "onnxruntime"
    monkeypatch.setattr(engine_choice, "threads_for", lambda network: threads_for(network) + 1)
    other = surveyed(pictures)
    assert drain(choose(other)).choice.value == "torch"


# ---- as it was asked ---------------------------------------------------------------------


@each_engine
def test_the_engine_that_was_asked_for_is_taken_and_the_rules_word_is_kept(pictures, name):
    extracted, notes = look_at(collect(pictures), engine=user(name))
    assert (extracted.engine.value, extracted.engine.source, extracted.engine.rule) == (
        name,
        "user",
        "torch",
    )
    assert extracted.features.cache_file.key.engine == name
    assert notes == []


@each_engine
def test_images_that_were_added_have_the_rows_that_a_whole_extraction_gives(
    pictures, tmp_path, monkeypatch, name
):
    """Bit for bit, in whatever batches they were passed."""
    requested = user(name)
    look_at(collect(pictures), engine=requested)
    for n in range(7):
        draw(np.random.default_rng(90 + n), n % 3).save(pictures / "green" / f"0{n}x.png")
    collection = collect(pictures)
    grown, _ = look_at(collection, engine=requested)
    assert grown.features.n_extracted == 7
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "another"))
    whole, _ = look_at(collection, engine=requested)
    assert whole.features.n_extracted == 43
    for layer in grown.feature_layers:
        bits = [
            extracted.reader(collection.record.examples)(layer).tobytes()
            for extracted in (grown, whole)
        ]
        assert bits[0] == bits[1], layer


def test_all_engines_tell_nearly_the_same(pictures):
    collection = collect(pictures)
    looks = [look_at(collection, engine=user(name))[0] for name in HERE]
    examples = collection.record.examples
    for one, other in itertools.pairwise(looks):
        for layer in one.feature_layers:
            ours, theirs = one.reader(examples)(layer), other.reader(examples)(layer)
            assert np.abs(ours - theirs).max() <= 1e-3 * np.sqrt((ours**2).mean())


def test_a_plan_is_followed_to_the_letter(pictures):
    mine = Choice(value="traced", because="mine", source="user", rule="onnxruntime")
    ruled = Choice(value="traced", because="so", source="measured", rule="torch")
    for requested in (mine, ruled):
        assert look_at(collect(pictures), engine=requested)[0].engine == requested


def test_the_users_own_engine_is_not_replaced(pictures, monkeypatch):
    names = output(monkeypatch, failing=["traced"])
    with pytest.raises(PlanError, match=r"training.engine traced: it cannot; choose torch, or"):
        look_at(collect(pictures), engine=user("traced"))
    assert names == ["traced"]


def test_nor_when_an_earlier_extraction_could_not_use_it(pictures, monkeypatch):
    usual(monkeypatch, torch=(1.0, 10.0), onnxruntime=(0.1, 90.0))
    output(monkeypatch, failing=["onnxruntime"])
    look_at(collect(pictures))
    with pytest.raises(PlanError, match="cannot be run by ONNX Runtime; choose torch"):
        look_at(collect(pictures), engine=user("onnxruntime"))


def test_a_plans_engine_gives_way_and_the_extraction_says_to_which(pictures, monkeypatch):
    planned = Choice(value="onnxruntime", because="so", source="rule")
    output(monkeypatch, failing=["onnxruntime"])
    extracted, notes = look_at(collect(pictures), engine=planned)
    assert (extracted.engine.value, notes) == ("torch", ["it cannot; torch is used instead"])
    extracted, notes = look_at(collect(pictures), engine=planned)
    assert extracted.engine.value == "torch"
    assert notes == ["this network cannot be run by ONNX Runtime; torch is used instead"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensorrt", r"requested: tensorrt is not an engine; there are torch, traced, onnxruntime"),
        ("onnx", r"requested: onnx is not an engine; there are|did you mean onnxruntime\?"),
        ("openvnio", r"requested: openvnio is not an engine; (did you mean openvino\?|there are)"),
    ],
)
def test_an_engine_that_is_none_is_refused(name, says):
    with pytest.raises(PlanError, match=says):
        check_name(name, "requested")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("openvino", r"run `pip install .*openvino`, or choose torch, traced\."),
        ("onnxruntime", r"run `pip install onnxruntime`, or choose torch, traced\."),
    ],
)
def test_an_engine_that_is_not_installed_is_refused_with_the_cure(monkeypatch, name, cure):
    monkeypatch.setattr(engine_choice, "installed_engines", lambda: ("torch", "traced"))
    with pytest.raises(PlanError, match=f"requested: {name} is not installed; {cure}"):
        check_name(name, "requested")


def test_nothing_is_made_where_nothing_is_missing(pictures, monkeypatch):
    look_at(collect(pictures))
    names = output(monkeypatch)
    chosen = follow(open_engine(surveyed(pictures)), lambda event: None)
    assert (chosen.engine, names) == (None, [])


def test_clearing_the_cache_forgets_the_speeds(pictures):
    from warmstart.cli import cache

    survey = surveyed(pictures)
    engine_choice.keep_speed(
        survey.feature_cache.root, survey.work, "torch", EngineSpeed(0.1, 75.0)
    )
    assert cache.info().bytes == sum(
        p.stat().st_size for p in FeatureCache(default_root()).root.iterdir()
    )
    cache.clear()
    assert engine_choice.read_speeds(survey.feature_cache.root, survey.work) == {}
    assert cache.info().bytes == 0
