"""The mean of several trainings' weights: what it is made of, and where it is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import jobs
import tiny
import warmstart
from hue_images import fill
from tiny import fit
from warmstart.errors import PlanError
from warmstart.events import Event, drain, follow
from warmstart.training import model_soup
from warmstart.training.job import TrainingJob
from warmstart.training.trainable import tensors_to_train

QUICK = {"training.epochs": 2.6667, "training.batch_size": 8, "training.folds": 1}


@pytest.fixture(scope="module")
def training_data(tmp_path_factory):
    with jobs.picture_folder(tmp_path_factory, "soup") as data:
        yield jobs.training_data(data)


def made(training_data, **options):
    """A maker of jobs, as `train_soup` takes it; the jobs that it made."""
    plan = jobs.planned(training_data, "full", (*jobs.FEW,))
    whole = jobs.job(training_data, plan, **options)
    given = []

    def make(number, scale):
        given.append((number, scale))
        return replace(whole, number=number, scale=scale)

    return make, given


def weights(trainable):
    return {name: tensor.detach().clone() for name, tensor in tensors_to_train(trainable).items()}


def test_what_comes_out_has_the_mean_of_all_weights(training_data):
    make, given = made(training_data)
    apart = [weights(drain(make(number, 1.0).learn()).trainable) for number in (3, 4, 5)]
    given.clear()
    said = []
    trained = follow(model_soup.train_soup(make, range(3, 6), 1.0), said.append)
    assert given == [(3, 1.0), (4, 1.0), (5, 1.0)]
    for name, tensor in weights(trained.trainable).items():
        blocks = torch.stack([one[name].double() for one in apart])
        torch.testing.assert_close(tensor.double(), blocks.mean(0), rtol=1e-5, atol=1e-6)
        assert tensor.numel() < 8 or blocks.std(0).max() > 0
    assert [e.values["text"] for e in said if e.kind == "note"] == [
        "the weights are the mean of 3 trainings"
    ]


def test_one_training_is_that_training(training_data):
    make, _ = made(training_data)
    alone = weights(drain(make(3, 1.0).learn()).trainable)
    said = []
    trained = follow(model_soup.train_soup(make, range(3, 4), 1.0), said.append)
    assert all(torch.equal(alone[n], t) for n, t in weights(trained.trainable).items())
    assert not [e for e in said if e.kind == "note"]


def test_a_mean_that_answers_worse_than_each_is_left(training_data, monkeypatch):
    """The second is turned around and yet as right as the first: what lies between is not."""
    make, _ = made(training_data)
    first = weights(drain(make(3, 1.0).learn()).trainable)
    learn, loss = TrainingJob.learn, model_soup._loss

    def turned(self):
        trained = yield from learn(self)
        if self.number > 3:
            with torch.no_grad():
                for name, tensor in tensors_to_train(trained.trainable).items():
                    tensor.copy_(-3 * first[name])
        return trained

    def told(job, trainable, rows):
        now = weights(trainable)
        is_alone = any(all(torch.equal(now[n], k * t) for n, t in first.items()) for k in (1, -3))
        return 0.01 if is_alone else loss(job, trainable, rows)

    monkeypatch.setattr(TrainingJob, "learn", turned)
    monkeypatch.setattr(model_soup, "_loss", told)
    said = []
    trained = follow(model_soup.train_soup(make, range(3, 5), 1.0), said.append)
    assert all(torch.equal(first[n], t) for n, t in weights(trained.trainable).items())
    assert "the first is kept" in next(e.values["text"] for e in said if e.kind == "note")


def test_a_training_without_a_rate_that_works_leaves_what_was_learnt(training_data, monkeypatch):
    make, _ = made(training_data)
    alone = weights(drain(make(3, 1.0).learn()).trainable)
    learn = TrainingJob.learn

    def failing(self):
        trained = yield from learn(self)
        return trained if self.number == 3 else replace(trained, trainable=None)

    monkeypatch.setattr(TrainingJob, "learn", failing)
    trained = drain(model_soup.train_soup(make, range(3, 6), 1.0))
    for name, tensor in weights(trained.trainable).items():
        torch.testing.assert_close(tensor, alone[name])


@pytest.mark.parametrize("at", [0.5, 0.95])
def test_a_run_that_is_stopped_amid_its_trainings_ends_as_if_it_never_was(
    tmp_path, at, monkeypatch
):
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))
    data = fill(tmp_path / "pictures", {"blue": 12, "green": 12, "red": 12})
    settings = {**QUICK, "training.model_soup": 3}
    whole = fit(data, strategy="full", settings=settings, out=tmp_path / "whole")
    assert whole.plan.training.model_soup.value == 3

    class Stop(Exception):
        pass

    def stop(event: Event):
        if event.stage == "fine_tune" and event.kind == "step" and event.step >= at * event.of:
            raise Stop

    with pytest.raises(Stop):
        fit(data, strategy="full", settings=settings, out=tmp_path / "cut", on_event=stop)
    again = warmstart.resume(tmp_path / "cut", base=tiny.network())
    one, other = (load_file(run.path / "model" / "model.safetensors") for run in (whole, again))
    assert not jobs.differing(one, other)
    assert np.isclose(whole.summary.estimate.value, again.summary.estimate.value)


@pytest.mark.parametrize("strategy", ["full+gradual", "full+lora"])
def test_what_no_mean_can_be_taken_of_is_refused(tmp_path, strategy, monkeypatch):
    if "lora" in strategy:
        pytest.importorskip("peft")
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))
    data = fill(tmp_path / "pictures", {"blue": 8, "red": 8})
    with pytest.raises(PlanError, match=r"training\.model_soup 2.*--set training\.model_soup=1"):
        fit(
            data,
            strategy=strategy,
            settings={**QUICK, "training.model_soup": 2},
            out=tmp_path / "run",
        )
