"""A plan and its forecast: nothing is trained, and nothing written but the file that was named."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch

import warmstart
from extraction import collect
from plans import refusal
from tiny import PREP, bytes_of, fit, network
from warmstart.cli.fit import plan_text
from warmstart.errors import DataError, PlanError, UsageError
from warmstart.events import drain, follow
from warmstart.network.feature_layers import feature_layers
from warmstart.network.ledger import take_digests
from warmstart.network.partition import cut
from warmstart.planning.plan_file import open_plan
from warmstart.planning.settings import apply_settings
from warmstart.records.plan import Forecast
from warmstart.records.run_folder import to_plain
from warmstart.request import Request
from warmstart.run import forecast
from warmstart.run.forecast import Bench, dry_run, make_forecaster, measure
from warmstart.training.dataset import arrange

STRATEGIES = ("auto", "head", "last:1", "full+gradual", "head+add", "full+lora", "scratch")
FEW = ("training.epochs=0.8889", "training.batch_size=8")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ask(data, strategy="auto", **options):
    usual = {"base": network(), "preprocessing": PREP, "budget": "fast"}
    if strategy not in ("auto", "head", "auto+add"):
        usual["settings"] = FEW
    return drain(dry_run(Request(data=data, strategy=strategy, **{**usual, **options})))


# ---- what it gives -----------------------------------------------------------------------


@pytest.mark.parametrize("lr", [10.0, 1e30])
@pytest.mark.parametrize("strategy", ["full", "last:1", "full+gradual"])
def test_a_rate_at_which_training_would_diverge_is_measured_all_the_same(pictures, strategy, lr):
    result = ask(pictures, strategy, lr=lr)
    assert 0 < result.forecast.seconds["fine_tune"] < 60


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
    assert result.plan_file is None
    seconds = {k: v for k, v in result.forecast.seconds.items() if k != "total"}
    assert result.forecast.total == pytest.approx(sum(seconds.values()), abs=0.05)
    assert (
        (seconds["fine_tune"] > 0) == result.plan.is_trained == (strategy not in ("auto", "head"))
    )
    assert result.forecast.total > 0
    assert result.forecast.memory_mb > 50
    assert (result.parameters.get("added", 0) > 0) == (strategy == "head+add")
    assert sum(n for name, n in result.parameters.items() if name != "added") == sum(
        p.numel() for n, p in network().named_parameters() if not n.startswith("out.")
    )
    lines = plan_text(result, "pictures").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    printed = json.loads(json.dumps(to_plain(result)))
    assert {"plan", "forecast", "n", "classes"} <= printed.keys()
    assert printed["plan"]["strategy"]["value"] == result.plan.strategy.value
    assert printed["forecast"]["seconds"]["total"] == result.forecast.total


def test_time_before_the_call_counts_only_where_the_caller_says_so(pictures):
    """A notebook's process may be days old; on the command line it began with the command."""
    assert ask(pictures, "head", elapsed=1e6).forecast.seconds["read"] >= 1e6
    assert ask(pictures, "head").forecast.seconds["read"] < 1e6


@pytest.mark.parametrize(
    ("minutes", "samples", "folds"),
    [
        (None, 12_000, 5),
        (200.0, 12_000, 5),
        (75.0, 12_000, 1),
        (30.0, 6_320, 1),
    ],
)
def test_the_plan_is_cut_to_the_minutes_as_in_the_run(
    pictures, monkeypatch, minutes, samples, folds
):
    def slow(*_):
        """A second for four images passed, in every training."""
        return lambda plan: Forecast(
            seconds={"total": plan.samples_seen * (1 + plan.training.folds.number) / 8},
            memory_mb=1.0,
            disk_mb=1.0,
        )

    monkeypatch.setattr(forecast, "make_forecaster", slow)
    result = ask(pictures, "scratch", minutes=minutes, budget="balanced", settings=())
    training = result.plan.training
    assert (result.plan.samples_seen, training.folds.value) == (samples, folds)
    assert minutes is None or result.forecast.total <= 0.9 * 60 * minutes
    said = plan_text(result, "pictures")
    assert ("\nMinutes  " in said) == (folds == 1)
    assert ("epochs 175.6 instead of 333.3" in " ".join(said.split())) == (samples < 12_000)


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


def test_only_reading_is_reported(pictures):
    events = []
    request = Request(
        data=pictures, base=network(), preprocessing=PREP, strategy="last:1", settings=FEW
    )
    follow(dry_run(request), events.append)
    assert {event.stage for event in events} == {"read"}


# ---- the file ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["head", "last:1", "full+gradual", "head+add", "scratch"])
def test_the_file_is_the_plan_and_can_be_followed(pictures, tmp_path, strategy):
    result = ask(pictures, strategy, seed=3, out=tmp_path / "plan.toml")
    assert result.plan_file == str(tmp_path / "plan.toml")
    assert open_plan(tmp_path / "plan.toml") == result.plan
    assert {path.name for path in tmp_path.iterdir()} <= {"pictures", "cache", "plan.toml"}
    settings = dict(pair.split("=") for pair in FEW) if result.plan.is_trained else {}
    planned = warmstart.fit(
        pictures,
        base=network(),
        preprocessing=PREP,
        plan=tmp_path / "plan.toml",
        out=tmp_path / "planned" / "run",
    )
    typed = fit(
        pictures, strategy=strategy, seed=3, settings=settings, out=tmp_path / "typed" / "run"
    )
    assert bytes_of(planned.path / "model") == bytes_of(typed.path / "model")
    assert planned.plan == replace(result.plan, base=planned.plan.base)
    assert (planned.estimate, planned.verdict) == (typed.estimate, typed.verdict)


def test_the_file_can_be_edited_and_asked_about_again(pictures, tmp_path):
    ask(pictures, "last:1", out=tmp_path / "plan.toml")
    text = (tmp_path / "plan.toml").read_text()
    (tmp_path / "longer.toml").write_text(text.replace("value = 0.8889\n", "value = 8.889\n"))
    result = ask(pictures, plan=tmp_path / "longer.toml", settings=())
    assert result.plan.training.epochs.value == 8.889
    assert not result.follows_verdict


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/mine", "--out runs/mine: with --dry-run it names the file for the plan"),
        ("taken.toml", "--out taken.toml exists; nothing was changed. Choose another name."),
        (
            "nowhere/plan.toml",
            "--out nowhere/plan.toml: there is no folder nowhere; make it first.",
        ),
    ],
)
def test_an_out_that_is_no_new_file_is_refused_before_anything_is_read(tmp_path, name, message):
    (tmp_path / "taken.toml").write_text("mine")
    with pytest.raises(UsageError) as caught:
        ask("no such data", out=type(tmp_path)(name))
    assert str(caught.value).startswith(message)
    assert (tmp_path / "taken.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"strategy": "best"}, PlanError),
        ({"strategy": "last:9"}, PlanError),
        ({"strategy": "head", "lr": 0.1}, PlanError),
        ({"budget": "quick"}, UsageError),
        ({"data": "nowhere"}, DataError),
        ({"settings": ("lr=1",)}, PlanError),
    ],
)
def test_what_fit_refuses_is_refused_and_no_file_is_left(pictures, tmp_path, asked, error):
    with pytest.raises(error):
        ask(**{"data": pictures, "out": tmp_path / "plan.toml", **asked})
    assert not (tmp_path / "plan.toml").exists()


def test_an_image_that_cannot_be_read_is_left_out_as_fit_does(pictures):
    path = pictures / "blue" / "001.png"
    path.write_bytes(path.read_bytes()[:300])
    assert fit(pictures, strategy="head").summary.data.unreadable == 1
    assert ask(pictures, "last:1").forecast.total > 0


# ---- the measurement ---------------------------------------------------------------------


@pytest.fixture
def bench(pictures):
    collection = collect(pictures)
    blocks = cut(network(), PREP)
    return Bench(
        blocks, feature_layers(blocks.record), collection, arrange(collection.record), PREP
    )


def plan_of(pictures, strategy):
    return ask(pictures, strategy).plan


def test_speeds_are_measured_and_the_base_model_is_not_moved(bench, pictures):
    before = take_digests(bench.network)
    speeds = measure(bench, plan_of(pictures, "full"), elapsed=1.5)
    assert speeds.elapsed == 1.5
    for name in ("forward", "decode", "step", "algebra"):
        assert 0 < getattr(speeds, name) < 5, name
    assert speeds.forward_mb > 50
    assert speeds.step_mb >= 0
    assert speeds.threads >= 1
    assert take_digests(bench.network) == before
    assert measure(bench, plan_of(pictures, "head"), elapsed=0).step == 0


def test_a_slow_step_is_seen_as_one(bench, pictures, monkeypatch):
    """A network that sleeps 20 ms: the step that is measured takes at least that."""
    real = forecast.TrainingAttempt.run

    def slow(attempt, saved=None):
        steps = real(attempt, saved)
        while True:
            time.sleep(0.02)
            try:
                event = next(steps)
            except StopIteration as stop:
                return stop.value
            yield replace(event, t=time.time())

    plan = plan_of(pictures, "full")
    monkeypatch.setattr(forecast.TrainingAttempt, "run", slow)
    assert 0.02 < measure(bench, plan, elapsed=0).step < 1


def test_sets_that_join_are_measured_between_few_and_all(bench, pictures, monkeypatch):
    asked, plan = [], plan_of(pictures, "full+gradual")

    def steps(bench, plan, chosen):
        asked.append([p.name for p in plan.blocks if p.action.value == "tuned"])
        return float(len(asked[-1]))

    monkeypatch.setattr(forecast, "_time_steps", steps)
    names = [block.name for block in plan.blocks[:-1]]
    assert forecast._time_training(bench, plan) == (len(names) + 1) / 2
    assert asked == [names, names[-1:]]


def test_a_longer_plan_is_forecast_to_take_longer(bench, pictures):
    plan = plan_of(pictures, "last:1")
    longer = apply_settings(plan, ["training.epochs=888.8889"])
    short, long = (make_forecaster(bench, p, 36, False, 1.0)(p) for p in (plan, longer))
    assert long.seconds["fine_tune"] > 5 * short.seconds["fine_tune"]
    known = make_forecaster(bench, plan, 0, False, 1.0)(plan)
    assert known.seconds["features"] < short.seconds["features"]


def test_what_a_plan_may_not_do_is_refused_here_too(bench, pictures):
    plan = plan_of(pictures, "full")
    gone = replace(plan, training=replace(plan.training, warmup=None))
    assert "trains blocks without training.warmup" in refusal(
        make_forecaster, bench, gone, 36, False, 0.0
    )
