"""A plan and its forecast without a run, and --minutes that shorten the plan of one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import warmstart
from extraction import collect
from plans import typed_request
from tiny import PREP, bytes_of, fit, network
from warmstart.cli.fit import plan_text
from warmstart.errors import UsageError
from warmstart.events import drain
from warmstart.features.engine_choice import engine_work, keep_speed, survey_engines
from warmstart.machine import default_root
from warmstart.network.ledger import take_digests
from warmstart.network.load import load
from warmstart.planning.plan_file import open_plan
from warmstart.planning.rules import REFERENCE, EngineSpeed
from warmstart.records.plan import Choice
from warmstart.records.run_folder import to_plain
from warmstart.run import forecast
from warmstart.run.forecast import Bench, dry_run, make_forecaster, measure
from warmstart.training.dataset import arrange

STRATEGIES = ("auto", "head", "last:1", "full+gradual", "head+add", "full+lora", "scratch")
FEW = ("training.epochs=0.8889", "training.batch_size=8")

pytestmark = pytest.mark.usefixtures("own_folder")


def ask(data, strategy="auto", **options):
    usual = {"base": network(), "preprocessing": PREP, "budget": "fast"}
    if strategy not in ("auto", "head", "auto+add"):
        usual["settings"] = FEW
    return drain(dry_run(typed_request(data=data, strategy=strategy, **{**usual, **options})))


def test_a_rate_at_which_training_would_diverge_is_measured_all_the_same(pictures):
    assert 0 < ask(pictures, "full+gradual", lr=1e30).forecast.seconds["fine_tune"] < 60


def test_what_is_stored_of_the_frozen_layers_takes_disk_that_is_forecast(pictures):
    """Outputs of the first part and its two taps, in full precision: the image and its views."""
    live, stored = (
        ask(
            pictures,
            "last:1",
            settings=(*FEW, f"training.split_at={cut}", "training.augmentations=3"),
        )
        for cut in (0, 1)
    )
    gap = stored.forecast.disk_mb - live.forecast.disk_mb
    assert gap == pytest.approx(36 * 4 * (8 * 16 * 16 + 8 + 32) * 4 / 1e6, abs=0.11)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plan_and_a_forecast_of_every_strategy(pictures, strategy):
    if "lora" in strategy:
        pytest.importorskip("peft")
    result = ask(pictures, strategy)
    assert (result.n, result.n_test, result.classes) == (36, 0, ("blue", "green", "red"))
    assert result.plan.strategy.value == ("head" if strategy == "auto" else strategy)
    assert result.follows_verdict == (strategy == "auto")
    seconds = {k: v for k, v in result.forecast.seconds.items() if k != "total"}
    assert result.forecast.total == pytest.approx(sum(seconds.values()), abs=0.05)
    is_trained = strategy not in ("auto", "head")
    assert (seconds["fine_tune"] > 0) == result.plan.is_trained == is_trained
    assert result.forecast.memory_mb > 50
    assert (result.parameters.get("added", 0) > 0) == (strategy == "head+add")
    assert sum(n for name, n in result.parameters.items() if name != "added") == sum(
        p.numel() for n, p in network().named_parameters() if not n.startswith("out.")
    )
    assert max(map(len, plan_text(result, "pictures").splitlines())) <= 80
    json.dumps(to_plain(result), allow_nan=False)


def test_nothing_is_written_and_nothing_is_changed(pictures, tmp_path):
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    files = bytes_of(pictures)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    ask(pictures, "full", base=module)
    assert torch.equal(torch.get_rng_state(), state)
    assert {path.name for path in tmp_path.iterdir()} <= {"pictures", "cache"}
    assert bytes_of(pictures) == files
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not module.training


def test_the_file_is_the_plan_and_can_be_followed(pictures, tmp_path):
    path = tmp_path / "plan.toml"
    result = ask(pictures, "last:1", seed=3, out=path)
    assert result.plan_file == str(path)
    assert open_plan(path) == result.plan
    base = {"base": network(), "preprocessing": PREP}  # the budget is that of the plan
    planned = warmstart.fit(pictures, plan=path, out=tmp_path / "planned" / "run", **base)
    settings = dict(pair.split("=") for pair in FEW)
    typed = fit(
        pictures, strategy="last:1", seed=3, settings=settings, out=tmp_path / "typed" / "run"
    )
    assert bytes_of(planned.path / "model") == bytes_of(typed.path / "model")
    assert planned.plan == replace(result.plan, base=planned.plan.base)
    assert (planned.estimate, planned.verdict) == (typed.estimate, typed.verdict)


def test_an_out_that_is_no_new_file_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "taken.toml").write_text("mine")
    for name, says in (
        ("runs/mine", "--out runs/mine: with --dry-run it names the file for the plan"),
        ("taken.toml", "--out taken.toml exists; nothing was changed. Choose another name."),
        ("nowhere/plan.toml", "there is no folder nowhere; make it first."),
    ):
        with pytest.raises(UsageError, match=says):
            ask("no such data", out=Path(name))
    assert (tmp_path / "taken.toml").read_text() == "mine"


def test_speeds_are_measured_and_the_base_model_is_not_moved(bench, pictures):
    before = take_digests(bench.network)
    speeds = measure(bench, ask(pictures, "full").plan, elapsed=1.5)
    assert speeds.elapsed == 1.5
    for name in ("forward", "decode", "step", "algebra"):
        assert 0 < getattr(speeds, name) < 5, name
    assert speeds.forward_mb > 50
    assert speeds.step_mb >= 0
    assert speeds.threads >= 1
    assert take_digests(bench.network) == before
    assert measure(bench, ask(pictures, "head").plan, elapsed=0).step == 0
    # A notebook's process may be days old; on the command line it began with the command.
    assert ask(pictures, "head", elapsed=1e6).forecast.seconds["read"] >= 1e6
    assert ask(pictures, "head").forecast.seconds["read"] < 1e6


@pytest.fixture
def bench(pictures):
    """What a forecast is measured on."""
    collection = collect(pictures)
    seen = survey_engines(collection, load(network(), preprocessing=PREP))
    return Bench(seen.network, seen.feature_layers, collection, arrange(collection.record), PREP)


@pytest.fixture
def speeds(monkeypatch):
    """Says how long a step takes, instead of measuring it."""

    def say(seconds):
        monkeypatch.setattr(forecast, "_time_training", lambda bench, plan: seconds)

    return say


def run(data, minutes):
    events, settings = [], {"training.batch_size": 8}
    options = {"strategy": "last:1", "budget": "balanced", "settings": settings}
    return fit(data, minutes=minutes, on_event=events.append, **options), events


def steps(seen):
    return [e for e in seen if e.kind == "step" and "job" in e.values]


def test_few_minutes_cut_the_plan_and_say_so(pictures, speeds):
    speeds(0.1)  # 626 steps of six trainings: 63 seconds; of two, as below: 19
    made, seen = run(pictures, 0.4)
    training = made.plan.training
    assert training.folds.value == 1
    assert made.plan.samples_seen < 1000
    assert (training.epochs.source, training.epochs.rule) == ("measured", 27.7778)
    assert training.epochs.because.endswith("to fit --minutes 0.4")
    assert training.augmentations.value <= max(math.ceil(training.epochs.value), 1)
    (told,) = [e.values["text"] for e in seen if e.values.get("title") == "Plan"]
    assert told.splitlines()[1] == (
        "to fit your minutes: trainings that hold images out 1 instead of 5; epochs "
        f"{training.epochs.value:.4g} instead of 27.78"
    )
    assert made.summary.shipped.strategy == "last:1"


def test_where_no_training_fits_the_linear_probe_ships(pictures, speeds, monkeypatch):
    speeds(100.0)
    monkeypatch.setattr(forecast, "skips_controls", lambda minutes, network, n: True)
    options = {"strategy": "last:1", "settings": {"training.batch_size": 8}, "minutes": 0.001}
    events = []
    made = warmstart.fit(
        pictures, base=network(), preprocessing=PREP, on_event=events.append, **options
    )
    assert made.summary.shipped.strategy == "head"
    assert "last:1 was given up, the minutes leave no time for it" in made.summary.shipped.why
    assert not steps(events)
    told = {e.values.get("title"): e.values.get("text") for e in events}
    assert "last:1 was given up: the minutes leave no time for it" in told["Plan"]
    assert "--budget fast" in told["Hurry"]  # the budget was not typed
    assert "transfer_gain" not in {one.name for one in made.verdict.evidence}


def test_where_the_forecast_was_too_low_training_ends_when_the_minutes_do(
    pictures, speeds, monkeypatch
):
    speeds(1e-9)
    monkeypatch.setattr(forecast, "DELIVERY", 100.0)  # nothing is left for training
    made, seen = run(pictures, 0.5)
    notes = [e.values["text"] for e in seen if e.values.get("title") == "Stopped"]
    assert len(notes) == len(steps(seen))
    assert notes[0] == "after 1 of 101 updates: out of time"
    assert made.summary.guards == ()
    assert made.summary.shipped.strategy == "last:1"


def with_engine(plan, name):
    engine = Choice(value=name, because="so", source="rule")
    return replace(plan, training=replace(plan.training, engine=engine))


def test_extraction_is_as_fast_as_the_engine_was_or_usually_is(bench, pictures, monkeypatch):
    monkeypatch.setattr(forecast, "time_forward", lambda bench: 0.125)
    plan = ask(pictures, "head").plan
    for name in ("torch", "traced", "onnxruntime", "openvino"):
        speeds = measure(bench, with_engine(plan, name), 0.0)
        usual = 0.125 * REFERENCE["torch"].speed / REFERENCE[name].speed
        assert speeds.extracted == pytest.approx(usual)
        assert speeds.setup == REFERENCE[name].setup
    work = engine_work(bench.network.record, PREP, len(bench.feature_layers))
    keep_speed(default_root(), work, "onnxruntime", EngineSpeed(7.0, 4.0))
    planned = with_engine(plan, "onnxruntime")
    speeds = measure(bench, planned, 0.0)
    assert (speeds.setup, speeds.extracted) == (7.0, 0.25)
    extracted = make_forecaster(bench, planned, 36, False, 0.0)(planned).seconds["features"]
    assert extracted >= 7.0 + 36 * 0.25
