"""One training: updates written out by hand, what guards do, when it ends, how it goes on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from jobs import FEW, changed, differing, four, job, planned, state
from tiny import network
from warmstart.errors import TrainingError
from warmstart.events import drain, follow
from warmstart.training import checkpoint
from warmstart.training.augmentations import draw_batches
from warmstart.training.checkpoint import Checkpoints
from warmstart.training.early_stopping import (
    CANDIDATES,
    VALIDATIONS,
    TrainingEnd,
    held_scores,
)
from warmstart.training.loop import SCALES

HELD = np.arange(0, 36, 5)
LIVE = ("training.split_at=0", "training.augmentations=2")
LONGER = ("training.epochs=8.8889", "training.batch_size=8")  # new layers need some time
SGD = ("training.optimizer=sgd", "training.weight_decay=0.01", "training.ema_decay=0")


def learnt(made):
    """What came of a training, and its events."""
    events = []
    return follow(made.learn(), events.append), events


def kinds(trained):
    return [note.kind for note in trained.guards]


def by_hand(made, n_steps, make, decay=0.0, pull=0.0):
    """The loop that one would write, over `n_steps` of all steps; the model and its average."""
    chosen, source, begun = made.schedule, made.source, made.make()
    model = begun.model.eval()
    backbone, head = model.backbone, model.head
    for parameter in model.parameters():
        parameter.requires_grad = False
    weights = [backbone.second.weight, head.weight]
    vectors = [backbone.second.bias, backbone.again.weight, backbone.again.bias, head.bias]
    moving = [*weights, *vectors]
    for parameter in moving:
        parameter.requires_grad = True
    base = [parameter.detach().clone() for parameter in moving]
    mean = [parameter.detach().clone() for parameter in moving]
    optimizer = make(
        [
            {"params": weights, "weight_decay": 0.0 if pull else 0.01},
            {"params": vectors, "weight_decay": 0.0},
        ]
    )
    rng = np.random.default_rng([0, 1, 0])
    rising = -(-chosen.n_steps // 10)
    drawn = draw_batches(len(made.rows), chosen.batch_size, n_steps, rng)
    for step, (rows, visits) in enumerate(drawn):
        falling = np.cos(np.pi / 2 * (step - rising) / (chosen.n_steps - rising)) ** 2
        rate = 0.01 * ((step + 1) / rising if step < rising else falling)
        for group in optimizer.param_groups:
            group["lr"] = rate
        places = made.rows[rows]
        (images,) = source.batch(places, 1 + visits % 2, begun.feature_layers)
        loss = nn.functional.cross_entropy(model(images), source.targets(places))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, home in zip(moving, base, strict=True):
                parameter += rate * pull * (home - parameter)
            kept = min(decay, (step + 1) / (11 + step))
            mean = [kept * m + (1 - kept) * p for m, p in zip(mean, moving, strict=True)]
    return model, moving, base, mean


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_a_training_is_the_loop_that_one_would_write(training_data):
    """SGD on what `last:1` lets move, statistics at rest, vectors without decay."""
    settings = ("training.epochs=3.3333", "training.batch_size=12", "training.l2_sp=0", *SGD, *LIVE)
    plan = planned(training_data, "last:1", settings, lr=0.01)
    made = job(training_data, plan, HELD)
    trained, _ = learnt(made)
    hand, *_ = by_hand(
        made, 10, lambda group_rows: torch.optim.SGD(group_rows, lr=0.0, momentum=0.9)
    )
    close(state(trained.trainable.model), state(hand))
    assert changed(made, trained.trainable) == {trained.trainable.network.blocks[-1].name}


@pytest.mark.parametrize(("validation", "share"), [(2, 1.0), (2, 0.5), (5, 0.25), (1, 0.0)])
def test_a_training_ends_early_on_the_same_curve_or_is_interpolated(
    training_data, validation, share
):
    """Averaged, with L2-SP."""
    settings = (
        "training.epochs=2.2222",
        "training.batch_size=8",
        "training.ema_decay=0.7",
        "training.l2_sp=2",
        *LIVE,
    )
    plan = planned(training_data, "last:1", settings, lr=0.01)
    made = job(training_data, plan, end=TrainingEnd(validation=validation, share=share))
    trained, events = learnt(made)
    model, moving, base, mean = by_hand(made, 2 * validation, torch.optim.AdamW, 0.7, 2.0)
    assert len([e for e in events if e.kind == "step"]) == 2 * validation
    with torch.no_grad():
        for parameter, home, end in zip(moving, base, mean, strict=True):
            parameter.copy_(home + share * (end - home))
    close(state(trained.trainable.model), state(model))


def test_scores_of_validations_are_those_of_the_weights_then(training_data):
    """Every candidate that a training looked at is where a training of that route ends."""
    settings = ("training.epochs=2.2222", "training.batch_size=8", *LIVE)
    plan = planned(training_data, "full", settings, lr=0.005)
    whole = job(training_data, plan, HELD)
    trained, events = learnt(whole)
    assert trained.scores.shape == (len(CANDIDATES), len(HELD), 3)
    told = [e.values for e in events if "val" in e.values]
    assert len(told) == VALIDATIONS
    labels = training_data.labelled.labels[HELD]
    for candidate, end in enumerate(CANDIDATES):
        ended, _ = learnt(replace(whole, held=HELD[:0], end=end))
        found = held_scores(ended.trainable, whole.source, HELD)
        np.testing.assert_allclose(trained.scores[candidate], found, rtol=1e-4, atol=1e-4)
        if candidate < VALIDATIONS:
            values = told[candidate]
            assert values["val"] == round(float((found.argmax(1) == labels).mean()), 4)
            log_p = torch.log_softmax(torch.from_numpy(found), 1)[range(len(HELD)), labels]
            assert values["val_loss"] == pytest.approx(-float(log_p.mean()), abs=1e-4)
    begun = held_scores(whole.make(), whole.source, HELD)
    assert {v["head"] for v in told} == {round(float((begun.argmax(1) == labels).mean()), 4)}
    assert len({scores.tobytes() for scores in trained.scores}) == len(CANDIDATES)


@pytest.mark.parametrize(
    "setting",
    ["training.gradient_checkpointing=true", "training.micro_batch=3", "training.workers=3"],
)
def test_ways_to_save_memory_or_time_come_to_the_same(training_data, setting):
    plans = [planned(training_data, "full", (*FEW, *more), lr=0.001) for more in ((), (setting,))]
    one, other = (state(learnt(job(training_data, plan))[0].trainable.model) for plan in plans)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.1, 0.001, None])
def test_new_layers_remember_what_the_final_weights_make_of_the_images(training_data, momentum):
    """Few updates with a small momentum left the 0 and 1 of the beginning, and "stuck" was said."""
    made = job(training_data, planned(training_data, "scratch", LONGER))

    def slow():
        begun = made.make()
        begun.model.backbone.norm.momentum = momentum
        return begun

    trained, _ = learnt(replace(made, make=slow))
    assert not kinds(trained)
    backbone = trained.trainable.model.backbone
    (images,) = made.source.plain(made.rows, trained.trainable.feature_layers)
    with torch.no_grad():
        seen = backbone.first(images)
    torch.testing.assert_close(backbone.norm.running_mean, seen.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(backbone.norm.running_var, seen.var(dim=(0, 2, 3)))
    assert backbone.norm.momentum == momentum


def test_a_network_that_is_compiled_is_trained_by_what_the_compiler_gave(
    training_data, monkeypatch
):
    calls = []

    def compiled(tail):
        return lambda *inputs: calls.append(1) or tail(*inputs)

    monkeypatch.setattr(torch, "compile", compiled)
    plan = planned(training_data, "last:1", (*FEW, "training.compile=true"))
    learnt(job(training_data, plan, HELD))
    assert len(calls) == 4  # looks are taken without it


def test_steps_are_counted_through_all_trainings(training_data):
    made = replace(job(training_data, planned(training_data, "last:1", FEW)), steps=(4, 4, 4))
    _, found = learnt(made)
    assert {(event.stage, event.kind) for event in found} == {("fine_tune", "step")}
    assert [event.step for event in found] == [5, 6, 7, 8]  # the second of three of 4 each
    assert {event.of for event in found} == {12}
    assert {event.values["job"] for event in found} == {2}
    assert all(np.isfinite(event.values["loss"]) for event in found)
    assert all(event.values["per_second"] > 0 for event in found)


def test_what_was_frozen_and_moved_ships_nothing(training_data):
    made, outfits = job(training_data, planned(training_data, "last:1", FEW)), []
    steps = replace(made, make=lambda: outfits.append(made.make()) or outfits[-1]).learn()
    next(steps)
    with torch.no_grad():  # a buffer, which no optimizer holds
        outfits[0].network.backbone.norm.running_mean += 1
    says = r"1 frozen tensors changed .*norm.running_mean.*please report it"
    with pytest.raises(TrainingError, match=says):
        drain(steps)


LONG = ("training.epochs=4.4444", "training.batch_size=8", "training.split_at=0")


def test_a_rate_that_is_too_high_is_divided_by_three_until_it_works(training_data):
    plan = planned(training_data, "full", LONG, lr=0.3)
    made = job(training_data, plan, HELD)
    trained, events = learnt(made)
    assert kinds(trained) == ["diverged", "diverged"]
    assert {note.action for note in trained.guards} == {
        "training began again at a third of the learning rates"
    }
    assert (trained.scale, trained.has_failed) == (SCALES[2], False)
    told = [e.values for e in events if e.kind == "guard"]
    assert [values["guard"] for values in told] == kinds(trained)
    says = "; always guessing the class shares has 1.1; training began again at a third of "
    assert all(values["text"].startswith("the loss rose from 0.0") for values in told)
    assert all(says in values["text"] for values in told)
    factors = [e.values["factor"] for e in events if e.kind == "step"]
    assert max(factors[-20:]) == pytest.approx(1 / 9, abs=1e-6)
    again, _ = learnt(replace(made, scale=trained.scale))  # and the next one begins there
    assert again.guards == ()
    assert differing(state(again.trainable.model), state(trained.trainable.model)) == []


@pytest.mark.parametrize("when", [4, 20])
def test_weights_that_are_no_numbers_are_seen_after_the_last_update_too(training_data, when):
    """Also by what is told of it: no line of progress holds what is no number."""
    made, outfits = job(training_data, planned(training_data, "full", LONG), HELD), []
    spied = replace(made, make=lambda: outfits.append(made.make()) or outfits[-1])
    made_last = replace(spied, scale=SCALES[2])

    def spoil(event):
        if event.kind == "step":
            assert all(v == v for v in event.values.values())
        if event.kind == "step" and event.step == when - 1:
            with torch.no_grad():
                outfits[-1].network.backbone.first.weight.fill_(torch.nan)

    trained = follow(made_last.learn(), spoil)
    assert (kinds(trained), trained.has_failed) == (["diverged"], True)
    assert trained.guards[0].step == when


def test_a_network_that_was_spoilt_after_training_is_not_shipped(training_data, monkeypatch):
    made = job(training_data, planned(training_data, "last:1", FEW))
    monkeypatch.setattr("warmstart.training.loop.held_scores", lambda *a: np.full((2, 3), np.nan))
    with pytest.raises(TrainingError, match="are not finite; use --strategy head"):
        learnt(made)


def test_a_training_ends_when_the_minutes_are_over_and_says_so(training_data):
    made = job(training_data, planned(training_data, "full", LONG), HELD)
    whole, _ = learnt(made)
    trained, events = learnt(replace(made, until=time.perf_counter() - 1.0))
    steps = [e for e in events if e.kind == "step"]
    assert len(steps) == 1
    (note,) = [e.values for e in events if e.kind == "note"]
    assert note == {"title": "Stopped", "text": "after 1 of 20 updates: out of time"}
    assert (kinds(trained), trained.has_failed, trained.n_stages) == ([], False, 1)
    # What it looked at later is what it ended with; the estimate is of this very network.
    found = held_scores(trained.trainable, made.source, HELD)
    for candidate in range(VALIDATIONS):
        np.testing.assert_allclose(trained.scores[candidate], found, rtol=1e-4, atol=1e-4)
    assert not np.allclose(whole.scores[VALIDATIONS - 1], found)


STEPS = ("training.epochs=2.2222", "training.batch_size=8")  # ten updates
CASES = {
    "last:1": ("last:1", (), network, 1e-3),
    "full": ("full", (), network, 1e-3),
    "sgd": ("full", ("training.optimizer=sgd",), network, 1e-3),
    "plain": ("full", ("training.ema_decay=0", "training.l2_sp=0"), network, 1e-3),
    "gradual": ("full+gradual", (), four, 1e-3),
    "add": ("head+add", (), network, 1e-3),
    "lora": ("full+lora", (), network, 1e-3),
    "scratch": ("scratch", ("training.epochs=5.5556",), network, None),
    "bfloat16": ("full", ("training.precision=bfloat16",), network, 1e-3),
    "too high": ("full", (), network, 0.3),  # three attempts
}
ROUTES = {"held": (HELD, None), "early": (HELD[:0], TrainingEnd(validation=4, share=0.5))}


@pytest.fixture
def resumable(training_data, four_blocks, monkeypatch, tmp_path):
    """A training of each case that keeps its states in a folder, after each update."""
    # Trainings of a test are over before a checkpoint would be due.
    monkeypatch.setattr(checkpoint, "FIRST", 0.0)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))

    def make(case, held=HELD, end=None):
        if case == "lora":
            pytest.importorskip("peft")
        strategy, settings, module, lr = CASES[case]
        given = {setting.partition("=")[0]: setting for setting in (*STEPS, *settings)}
        data = {network: training_data, four: four_blocks}[module]
        plan = planned(data, strategy, tuple(given.values()), lr=lr)
        return job(data, plan, held, end=end)

    return make


def going_on(made, folder):
    """The same training in another process: nothing is left of it but its files."""
    return replace(made, checkpoints=Checkpoints(folder, "key"))


def close_after(steps, n):
    """Run to the n-th event and close; whether it came so far."""
    for _ in range(n):
        try:
            next(steps)
        except StopIteration:
            return False
    steps.close()
    return True


def outcome(trained):
    """All that a training says."""
    scores = np.nan_to_num(trained.scores, nan=-1.0)
    return trained.n_stages, trained.scale, trained.guards, trained.has_failed, scores.tobytes()


@pytest.mark.parametrize(
    ("case", "way"),
    [
        *((case, "held") for case in CASES),
        ("full", "early"),
        ("gradual", "early"),
    ],
)
def test_closed_after_any_event_and_gone_on_with(resumable, tmp_path, case, way):
    held, end = ROUTES[way]
    one, events = resumable(case, held, end), []
    whole = follow(one.learn(), events.append)
    assert (len(whole.guards) > 0) == (case == "too high")
    for n in range(1, len(events) + 1, max(len(events) // 3, 1)):
        folder = tmp_path / f"{n}"
        assert close_after(going_on(one, folder).learn(), n)
        again, told = going_on(one, folder), []
        trained = follow(again.learn(), told.append)
        assert outcome(trained) == outcome(whole), n
        assert differing(state(trained.trainable.model), state(whole.trainable.model)) == [], n
        steps = [e.step for e in told if e.kind == "step"]
        assert len(steps) < sum(e.kind == "step" for e in events)  # it did not begin anew
        assert again.checkpoints.load() is None  # what is done leaves no way to it


@pytest.mark.parametrize("way", ROUTES)
def test_a_training_that_was_finished_is_not_repeated(resumable, tmp_path, way):
    held, end = ROUTES[way]
    one = resumable("last:1", held, end)
    first = follow(going_on(one, tmp_path / "kept").learn(), lambda e: None)
    told = []
    again = follow(going_on(one, tmp_path / "kept").learn(), told.append)
    assert told == []
    assert outcome(again) == outcome(first)
    if way == "held":  # its scores are all that is needed of it
        assert again.trainable is None
    else:
        assert differing(state(again.trainable.model), state(first.trainable.model)) == []


def test_a_training_that_was_given_up_stays_so(resumable, tmp_path):
    one = replace(resumable("full", HELD[:0], TrainingEnd()), scale=SCALES[0])
    dead = replace(one, make=lambda: _deaf(one.make()))
    for _ in range(2):
        trained = follow(going_on(dead, tmp_path / "kept").learn(), lambda e: None)
        assert (trained.has_failed, trained.trainable) == (True, None)
        assert [note.kind for note in trained.guards] == ["stuck"]


def _deaf(trainable):
    """The network with rates at which nothing moves."""
    return replace(trainable, rates=dict.fromkeys(trainable.rates, 1e-12))


def test_the_state_of_another_training_is_not_taken_up(resumable, tmp_path):
    one = resumable("full")
    assert close_after(going_on(one, tmp_path / "kept").learn(), 4)
    other = replace(one, number=2)
    whole, trained = (
        follow(made.learn(), lambda e: None) for made in (other, going_on(other, tmp_path / "kept"))
    )
    assert differing(state(trained.trainable.model), state(whole.trainable.model)) == []
