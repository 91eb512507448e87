"""Trainings that were interrupted go on bit for bit, wherever it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import jobs
from jobs import differing, four, job, planned, state, with_context
from tiny import network
from warmstart.events import follow
from warmstart.training import checkpoint
from warmstart.training.checkpoint import Checkpoints
from warmstart.training.early_stopping import TrainingEnd
from warmstart.training.job import SCALES

HELD = np.arange(0, 36, 5)
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


@pytest.fixture(autouse=True)
def _always_due(monkeypatch):
    """Trainings of a test are over before a checkpoint would be due."""
    monkeypatch.setattr(checkpoint, "FIRST", 0.0)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    with jobs.picture_folder(tmp_path_factory, "job") as data:
        yield {module: jobs.training_data(data, module) for module in (network, four)}


@pytest.fixture
def made(scenes, tmp_path):
    """A training of each case that keeps its states in a folder."""

    def make(case, held=HELD, end=None):
        if case == "lora":
            pytest.importorskip("peft")
        strategy, settings, module, lr = CASES[case]
        given = {setting.partition("=")[0]: setting for setting in (*STEPS, *settings)}
        training_data = scenes[module]
        plan = planned(training_data, strategy, tuple(given.values()), lr=lr)
        return job(training_data, plan, held, end=end)

    return make


def going_on(made, folder):
    """The same training in another process: nothing is left of it but its files."""
    return with_context(made, checkpoints=Checkpoints(folder, "key"))


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
def test_closed_after_any_event_and_gone_on_with(made, tmp_path, case, way):
    held, end = ROUTES[way]
    one, events = made(case, held, end), []
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
        assert again.context.checkpoints.load() is None  # what is done leaves no way to it


def test_interrupted_again_and_again(made, tmp_path):
    """One event at a time, each in a process of its own."""
    one, events = made("gradual"), []
    whole = follow(one.learn(), events.append)
    for _ in range(len(events)):
        assert close_after(going_on(one, tmp_path / "kept").learn(), 1)
    trained = follow(going_on(one, tmp_path / "kept").learn(), lambda e: None)
    assert outcome(trained) == outcome(whole)
    assert differing(state(trained.trainable.model), state(whole.trainable.model)) == []


@pytest.mark.parametrize("way", ROUTES)
def test_a_training_that_was_finished_is_not_repeated(made, tmp_path, way):
    held, end = ROUTES[way]
    one = made("last:1", held, end)
    first = follow(going_on(one, tmp_path / "kept").learn(), lambda e: None)
    told = []
    again = follow(going_on(one, tmp_path / "kept").learn(), told.append)
    assert told == []
    assert outcome(again) == outcome(first)
    if way == "held":  # its scores are all that is needed of it
        assert again.trainable is None
    else:
        assert differing(state(again.trainable.model), state(first.trainable.model)) == []


def test_a_training_that_was_given_up_stays_so(made, tmp_path):
    one = replace(made("full", HELD[:0], TrainingEnd()), scale=SCALES[0])
    dead = replace(one, make=lambda: _deaf(one.make()))
    for _ in range(2):
        trained = follow(going_on(dead, tmp_path / "kept").learn(), lambda e: None)
        assert (trained.has_failed, trained.trainable) == (True, None)
        assert [note.kind for note in trained.guards] == ["stuck"]


def _deaf(trainable):
    """The network with rates at which nothing moves."""
    return replace(trainable, rates=dict.fromkeys(trainable.rates, 1e-12))


def test_the_state_of_another_training_is_not_taken_up(made, tmp_path):
    one = made("full")
    assert close_after(going_on(one, tmp_path / "kept").learn(), 4)
    other = replace(one, number=2)
    whole, trained = (
        follow(made.learn(), lambda e: None) for made in (other, going_on(other, tmp_path / "kept"))
    )
    assert differing(state(trained.trainable.model), state(whole.trainable.model)) == []


def test_low_rank_updates_are_merged_and_called_as_before(made, tmp_path):
    pytest.importorskip("peft")
    one = made("lora", HELD[:0], TrainingEnd())
    trained = follow(going_on(one, tmp_path / "kept").learn(), lambda e: None)
    again = follow(going_on(one, tmp_path / "kept").learn(), lambda e: None)
    names = {f"backbone.{name}" for name in network().state_dict() if not name.startswith("out.")}
    for trainable in (trained.trainable, again.trainable):
        assert names <= trainable.model.state_dict().keys()
        assert not [name for name in trainable.model.state_dict() if "lora" in name]
    assert differing(state(trained.trainable.model), state(again.trainable.model)) == []
    assert not torch.equal(
        trained.trainable.network.backbone.second.weight, network().second.weight
    )
