"""What the look will take is forecast for the engine that it will have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from extraction import collect
from tiny import PREP, network
from warmstart.events import drain
from warmstart.features.engine_choice import engine_work, keep_speed, survey_engines
from warmstart.machine import default_root
from warmstart.network.load import load
from warmstart.planning.rules import REFERENCE, EngineSpeed
from warmstart.records.plan import Choice
from warmstart.request import Request
from warmstart.run import forecast
from warmstart.run.forecast import Bench, dry_run, make_forecaster, measure
from warmstart.training.dataset import arrange


@pytest.fixture
def bench(pictures):
    """What a forecast is measured on."""
    collection = collect(pictures)
    seen = survey_engines(collection, load(network(), preprocessing=PREP))
    return Bench(seen.network, seen.feature_layers, collection, arrange(collection.record), PREP)


@pytest.fixture
def plan(pictures):
    """A plan that trains nothing."""
    return drain(
        dry_run(Request(data=pictures, base=network(), preprocessing=PREP, strategy="head"))
    ).plan


def with_engine(plan, name):
    engine = Choice(value=name, because="so", source="rule")
    return replace(plan, training=replace(plan.training, engine=engine))


def test_torch_is_as_fast_as_it_was_just_now(bench, plan, monkeypatch):
    monkeypatch.setattr(forecast, "time_forward", lambda bench: 0.125)
    speeds = measure(bench, with_engine(plan, "torch"), 0.0)
    assert (speeds.forward, speeds.extracted) == (0.125, 0.125)
    assert speeds.setup == REFERENCE["torch"].setup


@pytest.mark.parametrize("name", ["traced", "onnxruntime", "openvino"])
def test_another_engine_is_as_fast_beside_torch_as_usual(bench, plan, monkeypatch, name):
    monkeypatch.setattr(forecast, "time_forward", lambda bench: 0.125)
    speeds = measure(bench, with_engine(plan, name), 0.0)
    assert speeds.extracted == pytest.approx(
        0.125 * REFERENCE["torch"].speed / REFERENCE[name].speed
    )
    assert speeds.setup == REFERENCE[name].setup


def test_or_as_it_was_when_it_was_measured(bench, plan):
    work = engine_work(bench.network.record, PREP, len(bench.feature_layers))
    keep_speed(default_root(), work, "onnxruntime", EngineSpeed(7.0, 4.0))
    planned = with_engine(plan, "onnxruntime")
    speeds = measure(bench, planned, 0.0)
    assert (speeds.setup, speeds.extracted) == (7.0, 0.25)
    extracted = make_forecaster(bench, planned, 36, False, 0.0)(planned).seconds["features"]
    assert extracted >= 7.0 + 36 * 0.25
