"""What ships where the user leaves the depth open: probe, fine-tuned network or ensemble."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, r2_score

import warmstart
from hue_images import fill
from test_other_tasks import written
from tiny import bytes_of, fit, lines
from warmstart.evidence import check
from warmstart.planning.verdict import leaves_little
from warmstart.training import ship
from warmstart.training.ship import SHARES

COUNTS = {"blue": 14, "green": 14, "red": 14}
SHORT = {"training.epochs": 1, "training.batch_size": 8, "training.folds": 2}


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
        def best(losses, hits, groups):
            place = SHARES.index(share)
            return place if place < len(losses) else ship.FINE_TUNED  # where no ensemble may ship

        monkeypatch.setattr(ship, "_best", best)

    return force


def fine_tuning_gain(done):
    return {e.name: e for e in done.verdict.evidence}["fine_tuning_gain"]


def assert_the_estimate_is_made_of_the_predictions(done):
    """By hand from predictions.jsonl alone: the estimate, and the gain over the linear probe."""
    summary = done.summary
    held = [line for line in lines(done.path, "predictions.jsonl") if line["split"] == "oof"]
    assert len(held) == summary.estimate.n == summary.linear_probe.n
    if summary.task == "classify":
        value = np.mean([line["label"] == line["target"] for line in held])
    elif summary.task == "multilabel":
        names = sorted(held[0]["scores"])
        truth = np.array([[name in line["target"].split("|") for name in names] for line in held])
        scores = np.array([[line["scores"][name] for name in names] for line in held])
        value = average_precision_score(truth, scores, average="macro")
    else:
        value = r2_score([float(line["target"]) for line in held], [line["value"] for line in held])
    assert summary.estimate.value == pytest.approx(value, abs=1e-4)
    gain, shipped = summary.fine_tuning_gain, summary.shipped.strategy
    if gain is None or shipped == "head":
        assert summary.estimate == summary.linear_probe
    else:
        less = summary.estimate.value - summary.linear_probe.value
        assert gain.value == pytest.approx(less, abs=1e-9)
        assert (gain.n, gain.value) == (summary.estimate.n, fine_tuning_gain(done).value)


def run(split, **options):
    usual = {"budget": "balanced", "settings": SHORT, "out": split.parent / "run"}
    return fit(split, **{**usual, **options})


@pytest.mark.parametrize(
    ("share", "kind"),
    [
        (0.0, "layers"),
        (1.0, "convolutions"),
        (1.0, "attention"),
        (0.25, "layers"),
        (0.5, "convolutions"),
        (0.75, "attention"),
    ],
)
def test_each_choice_answers_as_its_folder_says(split, forced, share, kind):
    forced(share)
    done = run(split, kind=kind)
    word = {0.0: "head", 1.0: done.plan.strategy.value}.get(share, "ensemble")
    assert done.summary.shipped.strategy == word
    assert done.summary.estimate.method == "nested-cv"
    assert_the_estimate_is_made_of_the_predictions(done)
    assert done.summary.frozen.identical
    result, gain = fine_tuning_gain(done), done.summary.fine_tuning_gain
    assert (result.value, result.low, result.high) == (gain.value, gain.low, gain.high)
    assert result.low <= result.value <= result.high
    tests = [line for line in lines(done.path, "predictions.jsonl") if line["split"] == "test"]
    answers = done.predict([split / line["id"] for line in tests])
    for line, answer in zip(tests, answers, strict=True):
        assert answer.label == line["label"]
        assert answer.scores == pytest.approx(line["scores"], abs=2e-3)


def test_both_in_one_is_the_weighted_mean_of_the_two(split, forced):
    """But for their temperatures, each of which is fitted on its own answers held out."""
    by_share = {}
    for share in (0.0, 0.5, 1.0):
        forced(share)
        done = run(split, out=split.parent / f"run-{share}")
        told = done.model(torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)).log_softmax(1)
        by_share[share] = (told - told.mean()).detach().flatten().double().numpy()
    both = np.stack([by_share[0.0], by_share[1.0]], axis=1)
    weights, left, *_ = np.linalg.lstsq(both, by_share[0.5], rcond=None)
    assert (weights > 0).all()
    assert np.sqrt(left.sum()) < 0.02 * np.linalg.norm(by_share[0.5])


def test_a_strategy_of_the_users_ships_as_it_is(split):
    done = run(split, strategy="last:1")
    assert done.summary.shipped.strategy == "last:1"
    assert done.summary.estimate.method == "nested-cv"
    assert_the_estimate_is_made_of_the_predictions(done)
    assert "last:1 was fine-tuned as you chose: " in done.verdict.sentence


def test_the_linear_probe_is_the_one_that_a_run_of_it_alone_gives(split, forced):
    """Same seed, same budget: one quantity has one number, whatever is trained beside it."""
    alone = run(split, strategy="head", settings=None, out=split.parent / "head").summary
    assert alone.estimate == alone.linear_probe
    forced(1.0)
    tuned = run(split, out=split.parent / "tuned").summary
    chosen = run(split, strategy="last:1", out=split.parent / "chosen").summary
    forced(0.0)
    kept = run(split, out=split.parent / "kept").summary
    assert alone.linear_probe == tuned.linear_probe == chosen.linear_probe == kept.linear_probe
    assert kept.estimate == alone.estimate
    for summary in (tuned, kept, chosen):
        signal = {e.name: e for e in summary.verdict.evidence}["permutation_test"]
        assert signal.value == alone.linear_probe.value


def pictures(n):
    """Noise whose light is a number and whose tint has two labels, neither of them plain."""
    rng = np.random.default_rng(0)
    has, light = rng.random((n, 2)) < 0.5, rng.uniform(60, 180, size=n)
    X = light[:, None, None, None] + rng.normal(0, 20, (n, 1, 1, 3))
    X = X + rng.normal(0, 12, (n, 32, 32, 3))
    X[..., 0] += 50 * has[:, 0, None, None]
    X[..., 2] += 50 * has[:, 1, None, None]
    return np.clip(X, 0, 255).astype(np.uint8), has, light


@pytest.mark.parametrize("task", ["multilabel", "regress"])
@pytest.mark.parametrize("how", ["last:1", "ensemble"])
def test_other_tasks_have_one_estimate_too(tmp_path, monkeypatch, forced, task, how):
    X, has, light = pictures(n=60)
    names = ["|".join(n for n, h in zip(("red", "blue"), row, strict=True) if h) for row in has]
    column, cells = ("label", names) if task == "multilabel" else ("light", light)
    written(tmp_path, column, cells, X)
    monkeypatch.chdir(tmp_path)
    forced(0.5)
    done = fit(
        "t.csv",
        task=task,
        label=column,
        strategy="last:1" if how == "last:1" else "auto",
        budget="balanced",
        settings=SHORT,
        out=tmp_path / "run",
    )
    assert done.summary.shipped.strategy == how
    assert done.summary.fine_tuning_gain is not None
    assert_the_estimate_is_made_of_the_predictions(done)


def test_where_next_to_nothing_is_left_to_gain_no_layer_is_trained(split, monkeypatch):
    monkeypatch.setattr(check, "leaves_little", leaves_little)
    done = run(split)
    assert done.summary.shipped.strategy == "head"
    assert fine_tuning_gain(done).value is None
    assert done.summary.fine_tuning_gain is None


def test_what_was_set_for_training_does_no_harm_where_there_is_no_signal(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, size=(60, 32, 32, 3), dtype=np.uint8)
    done = fit(
        (x, rng.integers(2, size=60)),
        budget="balanced",
        settings=SHORT,
        lr=1e-3,
        out=tmp_path / "run",
    )
    assert done.verdict.kind == "no-signal"
    assert done.summary.shipped.strategy == "none"


def test_a_run_of_both_is_rebuilt_resumed_from_and_explained(split, forced, tmp_path):
    """By name, as a start, and as plain torch."""
    forced(0.5)
    small = {**SHORT, "input.size": 64}
    done = run(split, base="lite0", preprocessing=None, settings=small)
    assert done.summary.shipped.strategy == "ensemble"
    again = warmstart.load(done.path)
    config = json.loads((done.path / "model" / "config.json").read_text())
    assert config["ensemble"] is not None
    assert any(layer["of"] == "base" for layer in config["feature_layers"])
    photo = next((split / "test" / "red").iterdir())
    wanted = again.predict([photo])[0].scores
    code = (done.path / "README.md").read_text().split("```python\n")[-1].partition("```")[0]
    (done.path / "photo.jpg").write_bytes(photo.read_bytes())
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=done.path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert eval(told.stdout) == pytest.approx(wanted, abs=2e-3)
    follows = warmstart.fit(split, base=done.path, budget="fast", out=tmp_path / "next")
    assert follows.summary.shipped.strategy == "head"
    assert follows.summary.base.name == str(done.path)


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
