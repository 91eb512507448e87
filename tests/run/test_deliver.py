"""What is delivered: a network that is its features, counts of images, whose choice it was."""

import json

import numpy as np
import pytest
import torch

from heads import arranged_of, fitted_head, layers_of
from issues import issue, issues, off_topic
from tiny import fit
from warmstart.errors import PlanError, TrainingError, UsageError
from warmstart.records.data import Finding
from warmstart.records.summary import Inspection
from warmstart.request import Request, open_folder
from warmstart.request import check as check_request
from warmstart.run import deliver


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budget": "quick"}, "--budget quick is not one of"),
        ({"lr": 0.0}, "--lr 0: it needs a number above 0, such as 0.0003"),
        ({"lr": float("nan")}, "--lr nan: it needs a number above 0"),
        ({"seed": 2**32}, "--seed 4294967296 is not a whole number from 0 to 4294967295"),
        ({"seed": "7"}, "--seed 7"),
    ],
)
def test_values_that_are_none_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        check_request(Request(data="photos", **wrong))
    check_request(Request(data="photos"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strategy": "best"}, "--strategy best: best is not a word of it"),
        ({"settings": ("training.epochs",)}, "--set training.epochs needs a path and a value"),
    ],
)
def test_what_is_no_plan_is_refused_before_anything_is_read(wrong, message):
    with pytest.raises(PlanError, match=message):
        check_request(Request(data="nowhere", **wrong))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("photos", "photos"),
        ("my photos", "my-photos"),
        ("größe", "größe"),
        ("a/b", "a-b"),
        ("..", "data"),
        ("-x-", "x"),
        ("", "data"),
        ("labels.csv", "labels.csv"),
    ],
)
def test_run_folders_have_plain_names(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    made = open_folder(Request(data="d"), name)
    assert made.path.as_posix() == f"runs/{folder}"
    assert (tmp_path / "runs" / "latest").resolve() == (tmp_path / "runs" / folder).resolve()


def test_what_the_user_set_is_marked_as_theirs(pictures, tmp_path):
    run = fit(pictures, out=tmp_path / "a", strategy="head", seed=3)
    chosen = {
        "base": run.plan.base,
        "strategy": run.plan.strategy,
        "seed": run.plan.training.seed,
    }
    assert {name: choice.source for name, choice in chosen.items()} == dict.fromkeys(chosen, "user")
    assert (run.plan.base.value, run.plan.base.rule) == ("Convolutions", "lite0")


def test_a_network_that_is_not_its_features_is_refused():
    head = fitted_head()

    class Model:
        head = torch.nn.Linear(5, 3)

        def features(self, inputs):
            return (inputs[:, :2], inputs[:, 2:])

    read = layers_of(8)
    inputs = torch.tensor(np.concatenate([read(layer) for layer in head.feature_layers], axis=1))
    Model.head.weight.data = torch.tensor(head.weight)
    Model.head.bias.data = torch.tensor(head.bias)
    assert deliver.check_model(Model(), head, inputs, read) < 1e-5
    with pytest.raises(TrainingError, match=r"differs from the features .* by [0-9.]+%"):
        deliver.check_model(Model(), head, inputs + 0.1, read)
    with pytest.raises(TrainingError, match="nothing was shipped"):
        deliver.check_model(Model(), head, inputs * float("nan"), read)
    rounded = inputs * 1.006  # as what was kept in half precision may be off
    with pytest.raises(TrainingError, match="differs from the features"):
        deliver.check_model(Model(), head, rounded, read)
    assert deliver.check_model(Model(), head, rounded, read, "float16") > 5e-3
    with pytest.raises(TrainingError, match="differs from the features"):
        deliver.check_model(Model(), head, inputs + 0.1, read, "float16")


def test_counts_are_of_images():
    findings = [
        Finding(kind="unreadable", sentence=".", items=("a: why", "b: why")),
        Finding(kind="unreadable", sentence=".", items=("c: why",)),
        Finding(kind="near-duplicate", sentence=".", items=("d",)),
        Finding(kind="small-class", sentence=".", items=("x", "y")),
        Finding(kind="leakage", sentence=".", items=("t1", "t2")),
    ]
    ranked = [issue(str(i), "a", "b", is_issue=i < 4) for i in range(6)]
    inspection = Inspection(evidence=(), label_issues=issues(*ranked), off_topic=off_topic("a/1"))
    counts = deliver.count_data(arranged_of(), findings, inspection, "image")
    assert (counts.unreadable, counts.near_duplicates, counts.leaks) == (3, 1, 2)
    assert (counts.train, counts.test, counts.classes, counts.label_issues) == (30, 6, 3, 4)
    assert counts.off_topic == 1


def test_the_environment_names_what_computed(finished):
    result = json.loads((finished.path / "env.json").read_text())
    assert result["packages"]["torch"] == torch.__version__
    assert result.keys() == {"warmstart", "python", "platform", "machine", "threads", "packages"}
    assert result["threads"] >= 1
