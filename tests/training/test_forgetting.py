"""What tuning did to what the start knew: measured, told, and taken back where nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import jobs
from jobs import differing, job, planned, state
from tiny import fit, network
from warmstart.events import drain, follow
from warmstart.network import lora
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.stats.cka import agreement, cka
from warmstart.stats.intervals import standard_error
from warmstart.training import forgetting
from warmstart.training.early_stopping import CANDIDATES, END, VALIDATIONS, ChosenEnd, TrainingEnd
from warmstart.training.forgetting import (
    TIE,
    BaseModelAnswers,
    interpolate_weights,
    limit_forgetting,
    original_outputs,
)
from warmstart.training.guards import Alarm

N = 36
SHARE = {end.share: n for n, end in enumerate(CANDIDATES) if end.share < 1}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    with jobs.picture_folder(tmp_path_factory, "forgetting") as data:
        yield {module: jobs.training_data(data, module) for module in (network, jobs.four)}


@pytest.fixture
def training_data(scenes):
    return scenes[network]


def tuned(
    training_data,
    strategy="full",
    by=1.0,
    settings=("training.epochs=0.8889", "training.batch_size=8"),
):
    """A job, and its network with every weight that moves moved far away."""
    made = job(training_data, planned(training_data, strategy, settings))
    trainable = made.make()
    rng = torch.Generator().manual_seed(1)
    moving = {name for name, action in trainable.actions.items() if action not in ("frozen",)}
    with torch.no_grad():
        for name, parameter in trainable.model.named_parameters():
            owner = trainable.owners.get(
                name, trainable.owners.get(name.replace("backbone.", "", 1))
            )
            if owner in moving or "lora" in name:
                parameter += by * torch.randn(parameter.shape, generator=rng)
    lora.merge(trainable.network.backbone)
    return made, trainable


def base_answers(training_data, made):
    return BaseModelAnswers(training_data, made.context, np.arange(N), 20)


def chosen(losses=None, candidate=END):
    """An end that was chosen; losses of every candidate, alike unless said otherwise."""
    found = np.full((len(CANDIDATES), N), 0.5)
    for number, values in (losses or {}).items():
        found[number] = values
    return ChosenEnd(candidate, np.zeros((N, 3)), found)


def scores():
    return np.arange(len(CANDIDATES))[:, None, None] + np.zeros((len(CANDIDATES), N, 3))


def kept(training_data, made, trainable, ended):
    """What was done: notes, the end that is taken, events."""
    events = []
    steps = limit_forgetting(
        base_answers(training_data, made), trainable, made.make, ended, scores()
    )
    notes, found = follow(steps, events.append)
    return notes, found, events


# ---- checking ------------------------------------------------------------------------------


def by_hand(training_data, module, number):
    """Features of part `number`, averaged over places, of a network of its own."""
    offered = [
        t for t in feature_layers(training_data.extracted.network.record) if t.block == number
    ]
    layer = next(t for t in offered if t.pool != "grid2")
    images = jobs.context(training_data, planned(training_data, "full")).plain(np.arange(N), ())[0]
    with torch.inference_mode():
        return FeatureExtractor(under(training_data, module), [layer])(images)[0].numpy()


def under(training_data, module):
    """The order of work of the start, on the modules of another: blocks were added above."""
    return replace(training_data.extracted.network, backbone=module.backbone)


@pytest.mark.parametrize("strategy", ["full", "last:1", "full+lora", "last:1+add"])
def test_layers_that_no_longer_tell_images_apart_are_counted(training_data, strategy):
    if "lora" in strategy:
        pytest.importorskip("peft")
    made, trainable = tuned(training_data, strategy, by=3.0)
    names = [part.name for part in training_data.extracted.network.blocks]
    moved = [
        n for n, name in enumerate(names, 1) if trainable.actions[name] in ("tuned", "low-rank")
    ]
    slow = {
        names[n - 1]: cka(
            by_hand(training_data, training_data.extracted.network, n),
            by_hand(training_data, trainable.network, n),
        )
        for n in moved
    }
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forgetting, "forgetting", lambda *told: found.append(told))
        base_answers(training_data, made).check(trainable)
    ((likeness, said, step),) = found
    assert likeness.keys() == slow.keys()
    for name in slow:
        assert likeness[name] == pytest.approx(slow[name], abs=1e-3)
    assert step == 20
    before, now = (
        _original(training_data, n) for n in (training_data.extracted.network, trainable.network)
    )
    assert said == pytest.approx(agreement(before, now))
    assert said < 1 or strategy != "full"


def _original(training_data, module):
    """What the start's own output says after the body of a network."""
    layer = feature_layers(training_data.extracted.network.record)[-1]
    images = jobs.context(training_data, planned(training_data, "full")).plain(np.arange(N), ())[0]
    with torch.inference_mode():
        seen = FeatureExtractor(under(training_data, module), [layer])(images)[0]
    return original_outputs(training_data.extracted.network, seen.numpy())


def test_a_network_that_is_as_it_was_has_forgotten_nothing(training_data):
    made = job(training_data, planned(training_data, "full"))
    assert base_answers(training_data, made).check(made.make()) is None
    frozen = job(training_data, planned(training_data, "head+add"))
    assert (
        base_answers(training_data, frozen).check(frozen.make()) is None
    )  # nothing of the start was tuned


def test_stored_and_live_sources_find_the_same(training_data):
    stored, trainable = tuned(training_data, "last:1", by=3.0)
    live = jobs.with_context(
        stored, source=jobs.context(training_data, planned(training_data, "full")).source
    )
    assert (stored.context.source.cut, live.context.source.cut) == (1, 0)
    one, other = (base_answers(training_data, made).check(trainable) for made in (stored, live))
    assert one == other


# ---- part of the way back ------------------------------------------------------------------


def test_the_way_is_a_straight_line_for_all_that_are_numbers(training_data):
    made, trainable = tuned(training_data, by=1.0)
    begun = made.make()
    begin, end = state(begun.model), state(trainable.model)
    interpolate_weights(trainable, begun, end, 0.25)
    for name, tensor in state(trainable.model).items():
        if tensor.is_floating_point():
            line = torch.lerp(begin[name], end[name], 0.25)
            assert torch.equal(tensor, line), name
        else:
            assert torch.equal(tensor, end[name])


def alarm_above(share):
    """A guard that raises an alarm beyond a share of the way, told by one weight."""

    def check(answers, trainable):
        begin = network().first.weight
        way = (trainable.network.backbone.first.weight - begin).abs().max() / check.whole
        return Alarm("forgetting", 20, "much is lost") if way > share + 1e-4 else None

    return check


@pytest.mark.parametrize(("limit", "share"), [(0.75, 0.75), (0.6, 0.5), (0.3, 0.25)])
def test_where_it_costs_nothing_less_is_forgotten(training_data, monkeypatch, limit, share):
    made, trainable = tuned(training_data, by=1.0)
    begin, end = state(made.make().model), state(trainable.model)
    check = alarm_above(limit)
    check.whole = (trainable.network.backbone.first.weight - network().first.weight).abs().max()
    monkeypatch.setattr(BaseModelAnswers, "check", check)
    notes, found, events = kept(training_data, made, trainable, chosen())
    for name, tensor in state(trainable.model).items():
        torch.testing.assert_close(
            tensor, torch.lerp(begin[name].float(), end[name].float(), share).to(tensor.dtype)
        )
    action = f"weights {share:.0%} of the way from the base model's are shipped instead"
    assert [(n.kind, n.step, n.action) for n in notes] == [("forgetting", 20, action)]
    assert events[0].values["text"] == f"much is lost; {action}"
    # What is claimed of the network is what held-out rows say at that end.
    assert found.candidate == SHARE[share]
    assert (found.scores == SHARE[share]).all()


def test_an_end_that_is_part_of_the_way_already_goes_on_from_there(training_data, monkeypatch):
    made, trainable = tuned(training_data, by=1.0)
    begin, end = state(made.make().model), state(trainable.model)  # three quarters of the way
    check = alarm_above(0.7)
    check.whole = (trainable.network.backbone.first.weight - network().first.weight).abs().max()
    monkeypatch.setattr(BaseModelAnswers, "check", check)
    _, found, _ = kept(training_data, made, trainable, chosen(candidate=SHARE[0.75]))
    assert found.candidate == SHARE[0.5]
    line = torch.lerp(begin["backbone.first.weight"], end["backbone.first.weight"], 0.5 / 0.75)
    torch.testing.assert_close(trainable.model.backbone.first.weight.detach(), line)


def test_low_rank_updates_go_part_of_the_way_back_too(training_data, monkeypatch):
    pytest.importorskip("peft")
    made, trainable = tuned(training_data, "full+lora", by=1.0)
    begin, end = network().second.weight, trainable.network.backbone.second.weight.detach().clone()
    answers = iter([Alarm("forgetting", 20, "much is lost"), None])
    monkeypatch.setattr(BaseModelAnswers, "check", lambda *_: next(answers))
    kept(training_data, made, trainable, chosen())
    assert (end - begin).abs().max() > 0.1
    torch.testing.assert_close(
        trainable.network.backbone.second.weight.detach(), torch.lerp(begin, end, 0.75)
    )


@pytest.mark.parametrize("seed", range(5))
def test_held_out_rows_must_not_mind(training_data, monkeypatch, seed):
    """A loss that is larger by more than a quarter of its standard error is minded."""
    made, trainable = tuned(training_data, by=1.0)
    end = state(trainable.model)
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(
        BaseModelAnswers, "check", lambda *_: Alarm("forgetting", 20, "much is lost")
    )
    gaps = {number: rng.normal(0.0, 0.1, N) for number in SHARE.values()}
    losses = {number: 0.5 + gap for number, gap in gaps.items()}
    tried = []
    monkeypatch.setattr(forgetting, "interpolate_weights", lambda *told: tried.append(told[3]))
    notes, found, _ = kept(training_data, made, trainable, chosen(losses))
    ties = [
        CANDIDATES[number].share
        for number, gap in gaps.items()
        if gap.mean() <= TIE * standard_error(gap, made.context.groups)
    ]
    assert tried == ties
    expected = (
        "kept: weights closer to the base model's forget as much"
        if ties
        else "kept: it has the better validation loss"
    )
    assert notes[0].action == expected
    assert found.candidate == END
    assert differing(state(trainable.model), end) == []


def test_a_training_that_ended_early_goes_no_way_back(training_data, monkeypatch):
    """Shares of a shorter way were not looked at."""
    made, trainable = tuned(training_data, by=1.0)
    end = state(trainable.model)
    monkeypatch.setattr(
        BaseModelAnswers, "check", lambda *_: Alarm("forgetting", 20, "much is lost")
    )
    notes, found, _ = kept(training_data, made, trainable, chosen(candidate=1))
    assert notes[0].action == "kept: training stopped early already, by validation loss"
    assert found.end == TrainingEnd(validation=2)
    assert VALIDATIONS > 2
    assert differing(state(trainable.model), end) == []


def test_without_an_alarm_nothing_is_made_or_told(training_data, monkeypatch):
    made, trainable = tuned(training_data, by=1.0)
    monkeypatch.setattr(BaseModelAnswers, "check", lambda *_: None)
    monkeypatch.setattr(forgetting, "interpolate_weights", None)
    ended = chosen()
    assert drain(
        limit_forgetting(base_answers(training_data, made), trainable, None, ended, scores())
    ) == (
        (),
        ended,
    )


# ---- in a run ------------------------------------------------------------------------------


def test_a_run_says_what_was_forgotten(pictures, monkeypatch):
    monkeypatch.setattr("warmstart.training.guards.LEAST_SIMILARITY", 0.99999)
    seen = []
    run = fit(
        pictures,
        strategy="full",
        lr=0.003,
        on_event=seen.append,
        settings={"training.epochs": 4.4444, "training.batch_size": 8},
    )
    (note,) = [g for g in run.summary.guards if g.kind == "forgetting"]
    (told,) = [e.values for e in seen if e.values.get("guard") == "forgetting"]
    assert told["text"].endswith(note.action)
    assert "fine-tuned blocks have lost the base model's features" in told["text"]
    assert run.estimate.n == 7
    assert {"kind": "forgetting", "step": 20, "action": note.action} in json.loads(
        (run.path / "summary.json").read_text()
    )["guards"]
