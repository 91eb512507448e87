"""Whole runs that train: what they say, how honest it is; the mean of several trainings."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import jobs
import tiny
import warmstart
from hue_images import fill
from tiny import bytes_of, fit, lines
from warmstart.errors import PlanError
from warmstart.events import Event, drain, follow
from warmstart.terminal import result_text
from warmstart.training import fine_tune
from warmstart.training.loop import TrainingJob
from warmstart.training.trainable import tensors_to_train

STRATEGIES = ("last:1", "full+gradual", "last:1+add", "full+lora", "scratch")
SETTINGS = {"training.epochs": 1.7778, "training.batch_size": 8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each strategy, made when it is first asked for."""
    root = tmp_path_factory.mktemp("tuned")
    data, made = root / "split", {}
    fill(data / "train", {"blue": 12, "green": 12, "red": 12})
    fill(data / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)

    def run(strategy, again=""):
        if strategy + again not in made:
            if "lora" in strategy:
                pytest.importorskip("peft")
            seen = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WARMSTART_CACHE", str(root / f"cache{again}"))
                longer = {"training.epochs": 7.1111} if strategy == "scratch" else {}
                made[strategy + again] = (
                    fit(
                        data,
                        strategy=strategy,
                        settings={**SETTINGS, **longer} if strategy != "head" else {},
                        out=root / again / strategy.replace(":", "-") / "split",
                        on_event=seen.append,
                    ),
                    seen,
                )
        return made[strategy + again]

    return run


each = pytest.mark.parametrize("strategy", STRATEGIES)


@each
def test_a_tuned_run_is_done_and_holds_what_a_run_holds(runs, strategy):
    run, _ = runs(strategy)
    assert bytes_of(run.path).keys() == bytes_of(runs("head")[0].path).keys()
    assert (run.path / "DONE").exists()
    assert run.summary.shipped.strategy == run.plan.strategy.value
    assert "your choice" in run.summary.shipped.why
    assert json.loads((run.path / "model" / "config.json").read_text())["strategy"] == (
        run.plan.strategy.value
    )
    names = [p["name"] for p in json.loads((run.path / "network.json").read_text())["blocks"]]
    assert [*names, "output"] == [block.name for block in run.plan.blocks]
    assert ("added" in names) == ("add" in strategy)


@each
def test_the_linear_probe_is_that_of_the_rows_that_the_estimate_is_made_on(runs, strategy):
    """The same linear probe on the same held-out rows, whatever is trained beside it."""
    run, _ = runs(strategy)
    probe, gain = run.summary.linear_probe, run.summary.fine_tuning_gain
    assert probe == runs("last:1")[0].summary.linear_probe
    assert probe.n == run.estimate.n
    assert gain.value == pytest.approx(run.estimate.value - probe.value)
    assert gain.low <= gain.value <= gain.high
    assert run.summary.own_head is None
    plain = runs("head")[0].summary
    assert (plain.linear_probe, plain.fine_tuning_gain) == (plain.estimate, None)


@each
def test_predictions_cover_what_was_held_out_and_the_test_part(runs, strategy):
    run, _ = runs(strategy)
    found = lines(run.path, "predictions.jsonl")
    examples = json.loads((run.path / "data.json").read_text())["examples"]
    tested = [example["id"] for example in examples if example["split"] == "test"]
    assert [line["id"] for line in found if line["split"] == "test"] == tested
    held = [line for line in found if line["split"] == "oof"]
    assert (run.estimate.method, run.estimate.n) == ("holdout", len(held))
    assert 6 <= len(held) <= 9  # a fifth of 36
    assert {line["fold"] for line in held} == {0}
    assert run.estimate.value == np.mean([line["label"] == line["target"] for line in held])
    for line in found:
        assert sum(line["scores"].values()) == pytest.approx(1, abs=5e-6)


def unrelated(n, k, seed, balanced):
    """Pictures, and labels that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(n) % k) if balanced else rng.integers(0, k, n)
    return images, [str(label) for label in labels]


# Left out, a row of equal classes looks like the others: scores that say nothing then say the
# opposite, and their temperature is 0.
@pytest.mark.parametrize(
    ("strategy", "kind", "lr", "seed", "balanced"),
    [
        ("last:1", "convolutions", 0.03, 0, False),
        ("full", "layers", 0.003, 2, False),
        ("full", "layers", 0.003, 9, False),
        ("last:1", "convolutions", 0.03, 0, True),
    ],
)
def test_labels_that_mean_nothing_stay_at_chance(strategy, kind, lr, seed, balanced):
    data = unrelated(60, 3, seed, balanced)
    settings = {
        "training.epochs": 17.7778,
        "training.batch_size": 16,
        "training.folds": 3,
        "training.crop": 1.0,
        "training.flip": False,
    }
    run = fit(data, kind=kind, strategy=strategy, lr=lr, settings=settings, seed=seed)
    assert run.estimate.n == 60
    assert run.estimate.low < 1 / 3 < run.estimate.high
    probe = run.summary.linear_probe
    assert probe.low < 1 / 3 < probe.high
    # None where training was given up: it was stuck
    gain = run.summary.fine_tuning_gain
    assert gain.low < 0 < gain.high if gain else run.summary.guards
    if kind == "layers":  # it learnt the labels by heart, and the estimate was not fooled
        answers = run.predict(data[0])
        learnt = np.mean([a.label == label for a, label in zip(answers, data[1], strict=True)])
        assert learnt > 0.9


@pytest.mark.parametrize("seed", [5])
def test_the_head_that_a_fold_begins_with_has_not_seen_its_rows(seed):
    """A penalty so small that a head knows its own rows by heart, and hardly a step after it."""
    settings = {
        "training.epochs": 0.2222,
        "training.batch_size": 8,
        "training.folds": 3,
        "head.penalties": 1e-4,
        "head.candidates": "equal",
    }
    data = unrelated(36, 2, seed, False)
    run = fit(data, kind="layers", strategy="full", lr=1e-6, settings=settings, seed=seed)
    assert run.estimate.n == 36
    assert run.estimate.low < 1 / 2 < run.estimate.high


TOO_HIGH = "training diverged at learning rates 10, 3.33 and 1.11; the rule's is 0.001"
NO_MOVE = "training made no progress at learning rate 1e-09; the rule's is 0.001"


@pytest.mark.parametrize(
    ("lr", "why", "kinds"),
    [
        (10.0, TOO_HIGH, ["diverged"] * 3),
        (1e-9, NO_MOVE, ["stuck"]),
        (
            1e30,
            TOO_HIGH.replace("10, 3.33 and 1.11", "1e+30, 3.33e+29 and 1.11e+29"),
            ["diverged"] * 3,
        ),
    ],
)
def test_where_no_rate_works_the_fitted_head_is_what_is_left(split_pictures, lr, why, kinds):
    """A model that can be used, and plain sentences wherever the run tells of itself."""
    run = fit(split_pictures, strategy="full", lr=lr, settings={"training.epochs": 4.4444})
    guards = run.summary.guards
    assert [guard.kind for guard in guards] == kinds
    assert guards[-1].action == "training was given up"
    assert run.summary.shipped.strategy == "head"
    assert run.summary.shipped.why.endswith(f"2 blocks frozen: full was given up, {why}")
    assert why in (run.path / "README.md").read_text().replace("\n", " ")
    assert f"full was given up: {why}." in run.verdict.sentence
    assert run.summary.fine_tuning_gain is None
    assert run.summary.estimate == run.summary.linear_probe
    assert why in " ".join(fit_text(run).split())
    for line in lines(run.path, "progress.jsonl"):
        json.dumps(line, allow_nan=False)
    # The very model that a run of the head alone ships, estimate and all.
    head = fit(split_pictures, strategy="head")
    ours, theirs = (load_file(r.path / "model" / "model.safetensors") for r in (run, head))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (run.estimate, run.test) == (head.estimate, head.test)
    assert run.summary.frozen == head.summary.frozen


def fit_text(run):
    """What a terminal shows at the end."""
    return result_text.result_text(run.summary, run.path, None)


QUICK = {"training.epochs": 2.6667, "training.batch_size": 8, "training.folds": 1}


def test_what_is_held_out_are_whole_groups_or_the_users_hold_out_set(training_data):
    labelled, n = training_data.labelled, len(training_data.labelled.learn)
    groups = tuple(np.arange(n)[k::9] for k in range(9))
    grouped = replace(training_data, labelled=replace(labelled, group_rows=groups))
    folds = fine_tune.held_out_folds(grouped, 3)
    assert sorted(np.concatenate(folds)) == [*range(n)]
    assert all(len(set(g) & set(f)) in (0, len(g)) for g in groups for f in folds)
    apart = replace(training_data, labelled=replace(labelled, holdout=12))
    assert [rows.tolist() for rows in fine_tune.held_out_folds(apart, 5)] == [[*range(n - 12, n)]]


def jobs_of(training_data, **options):
    """A maker of jobs, as `train_soup` takes it; the jobs that it made."""
    plan = jobs.planned(training_data, "full", (*jobs.FEW,))
    whole = jobs.job(training_data, plan, **options)
    given = []

    def make(number):
        given.append(number)
        return replace(whole, number=number)

    return make, given


def weights(trainable):
    return {name: tensor.detach().clone() for name, tensor in tensors_to_train(trainable).items()}


def test_what_comes_out_has_the_mean_of_all_weights(training_data):
    make, given = jobs_of(training_data)
    apart = [weights(drain(make(number).learn()).trainable) for number in (3, 4, 5)]
    given.clear()
    said = []
    trained = follow(fine_tune.train_soup(make, range(3, 6)), said.append)
    assert given == [3, 4, 5]
    for name, tensor in weights(trained.trainable).items():
        blocks = torch.stack([one[name].double() for one in apart])
        torch.testing.assert_close(tensor.double(), blocks.mean(0), rtol=1e-5, atol=1e-6)
        assert tensor.numel() < 8 or blocks.std(0).max() > 0
    assert [e.values["text"] for e in said if e.kind == "note"] == [
        "the weights are the mean of 3 trainings"
    ]


def test_a_mean_that_answers_worse_than_each_is_left(training_data, monkeypatch):
    """The second is turned around and yet as right as the first: what lies between is not."""
    make, _ = jobs_of(training_data)
    first = weights(drain(make(3).learn()).trainable)
    learn, loss = TrainingJob.learn, fine_tune._loss

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
    monkeypatch.setattr(fine_tune, "_loss", told)
    said = []
    trained = follow(fine_tune.train_soup(make, range(3, 5)), said.append)
    assert all(torch.equal(first[n], t) for n, t in weights(trained.trainable).items())
    assert "the first is kept" in next(e.values["text"] for e in said if e.kind == "note")


def test_a_training_without_a_rate_that_works_leaves_what_was_learnt(training_data, monkeypatch):
    make, _ = jobs_of(training_data)
    alone = weights(drain(make(3).learn()).trainable)
    learn = TrainingJob.learn

    def failing(self):
        trained = yield from learn(self)
        return trained if self.number == 3 else replace(trained, trainable=None)

    monkeypatch.setattr(TrainingJob, "learn", failing)
    trained = drain(fine_tune.train_soup(make, range(3, 6)))
    for name, tensor in weights(trained.trainable).items():
        torch.testing.assert_close(tensor, alone[name])


def test_a_run_that_is_stopped_amid_its_trainings_ends_as_if_it_never_was(tmp_path, monkeypatch):
    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "cache"))
    data = fill(tmp_path / "pictures", {"blue": 12, "green": 12, "red": 12})
    settings = {**QUICK, "training.model_soup": 3}
    whole = fit(data, strategy="full", settings=settings, out=tmp_path / "whole")
    assert whole.plan.training.model_soup.value == 3

    class Stop(Exception):
        pass

    def stop(event: Event):
        if event.stage == "fine_tune" and event.kind == "step" and event.step >= 0.7 * event.of:
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
