"""What ships where the depth is ours to choose: each of the three, taken home and used."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import warmstart
from drawing import fill
from tiny import PREP, bytes_of, fit, lines, network
from warmstart.joints import check, ship
from warmstart.planning.verdict import leaves_little
from warmstart.training.ship import SHARES, Option, decide

COUNTS = {"blue": 14, "green": 14, "red": 14}
SHORT = {"training.passes": 48, "training.batch": 8, "training.folds": 2}


@pytest.fixture
def split(tmp_path):
    """42 pictures to learn from, 15 to test on."""
    root = tmp_path / "split"
    fill(root / "train", COUNTS)
    fill(root / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)
    return root


@pytest.fixture(autouse=True)
def _tried(monkeypatch):
    """These colours are told apart by any output; layers are trained all the same."""
    monkeypatch.setattr(check, "leaves_little", lambda accuracy: False)


@pytest.fixture
def forced(monkeypatch):
    """Makes the rule take a share, whatever the rows say."""

    def force(share):
        def taken(head, tuned, labels, fold, blocks, rng, alone=None, **_):
            found = decide(head, tuned, labels, fold, blocks, rng, alone)
            mean = share * np.log(tuned) + (1 - share) * np.log(head)
            p = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
            option = Option(share, p, replace(found.option.calibration, temperature=1.0))
            return replace(found, option=option)

        monkeypatch.setattr(ship, "decide", taken)

    return force


def run(split, **options):
    usual = {"budget": "balanced", "settings": SHORT, "out": split.parent / "run"}
    return fit(split, **{**usual, **options})


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["convolutions", "attention", "layers"])
def test_each_choice_answers_as_its_folder_says(split, forced, share, kind):
    forced(share)
    done = run(split, kind=kind)
    word = {0.0: "head", 1.0: done.plan.strategy.value}.get(share, "blend")
    assert done.summary.shipped.strategy == word
    assert done.summary.estimate.method == "bbc-cv"
    assert done.summary.frozen.identical
    found = {e.name: e for e in done.verdict.evidence}["tail_gain"]
    assert found.low <= found.value <= found.high
    kept = {
        e["name"]: e for e in json.loads((done.path / "inspection.json").read_text())["evidence"]
    }
    assert kept["tail_gain"]["value"] == found.value
    tests = [line for line in lines(done.path, "predictions.jsonl") if line["split"] == "test"]
    answers = done.predict([split / line["id"] for line in tests])
    for line, answer in zip(tests, answers, strict=True):
        assert answer.label == line["label"]
        assert answer.scores == pytest.approx(line["scores"], abs=2e-3)


def test_both_in_one_is_the_weighted_mean_of_the_two(split, forced):
    by_share = {}
    for share in (0.0, 0.5, 1.0):
        forced(share)
        done = run(split, out=split.parent / f"run-{share}")
        by_share[share] = done.model(torch.zeros(1, 3, 32, 32)).log_softmax(1).detach()
    mean = ((by_share[0.0] + by_share[1.0]) / 2).log_softmax(1)
    forced(0.5)
    assert torch.allclose(by_share[0.5], mean, atol=0.1)  # its calibration is fitted anew


def test_a_strategy_of_the_users_ships_as_it_is(split):
    done = run(split, strategy="last:1")
    assert done.summary.shipped.strategy == "last:1"
    assert done.summary.estimate.method == "nested-cv"
    assert {e.name: e for e in done.verdict.evidence}["tail_gain"].value is None


def test_where_next_to_nothing_is_left_to_gain_no_layer_is_trained(split, monkeypatch):
    monkeypatch.setattr(check, "leaves_little", leaves_little)
    done = run(split)
    assert done.summary.shipped.strategy == "head"
    assert {e.name: e for e in done.verdict.evidence}["tail_gain"].value is None


def test_fast_trains_nothing(split):
    done = run(split, budget="fast", settings=None)
    assert done.summary.shipped.strategy == "head"
    assert done.summary.estimate.method == "nested-cv"


def test_what_was_set_for_training_does_no_harm_where_there_is_no_signal(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, size=(60, 32, 32, 3), dtype=np.uint8)
    done = fit((x, rng.integers(2, size=60)), budget="balanced", settings=SHORT, lr=1e-3,
               out=tmp_path / "run")  # fmt: skip
    assert done.verdict.kind == "no-signal"
    assert done.summary.shipped.strategy == "none"


def test_a_run_of_both_is_rebuilt_resumed_from_and_explained(split, forced, tmp_path):
    """By name, as a start, and as plain torch."""
    forced(0.5)
    small = {**SHORT, "input.size": 64}
    done = run(split, start="lite0", preprocessing=None, settings=small)
    assert done.summary.shipped.strategy == "blend"
    again = warmstart.load(done.path)
    config = json.loads((done.path / "model" / "config.json").read_text())
    assert config["beside"] is not None
    assert any(tap["of"] == "start" for tap in config["taps"])
    photo = next((split / "test" / "red").iterdir())
    wanted = again.predict([photo])[0].scores
    code = (done.path / "README.md").read_text().split("```python\n")[-1].partition("```")[0]
    (done.path / "photo.jpg").write_bytes(photo.read_bytes())
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=done.path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert eval(told.stdout) == pytest.approx(wanted, abs=2e-3)
    follows = warmstart.fit(split, start=done.path, budget="fast", out=tmp_path / "next")
    assert follows.summary.shipped.strategy == "head"
    assert follows.summary.start.name == str(done.path)


def test_the_plan_replayed_gives_the_same_run(split):
    first = run(split)
    again = run(split, plan=first.plan, settings=None, out=split.parent / "again")
    one, other = (bytes_of(done.path / "model") for done in (first, again))
    assert one == other
    assert first.summary.shipped == again.summary.shipped
    assert first.estimate == again.estimate


def test_images_of_tests_have_no_say(split):
    """Law 10 for the ship rule: test labels exchanged, all else equal."""
    first = run(split)
    a, b = split / "test" / "blue", split / "test" / "red"
    a.rename(split / "kept"), b.rename(a), (split / "kept").rename(b)
    other = run(split, out=split.parent / "other")
    assert first.summary.shipped == other.summary.shipped
    assert first.summary.verdict == other.summary.verdict
    assert bytes_of(first.path / "model") == bytes_of(other.path / "model")
    assert first.test != other.test


def test_a_network_that_is_one_piece_ships_the_tuned_one(split, forced):
    """It cannot stand beside itself in one network."""
    forced(0.5)

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x) if float(x.sum()) > -1e9 else x

    module = Whole().eval()
    done = run(split, start=module, preprocessing=PREP)
    assert done.summary.shipped.strategy != "blend"
