"""Evidence to verdict to what ships; a fitted head's claims against slow definitions."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from issues import issue, issues, off_topic
from plans import plan_for
from tiny import fit, lines
from warmstart.errors import PlanError, TrainingError, UsageError
from warmstart.evidence import check
from warmstart.planning.schedule import given_up as alone
from warmstart.planning.verdict import BASE
from warmstart.records.data import DataRecord, Example, Finding
from warmstart.records.network import FeatureLayer
from warmstart.records.summary import Estimate, Evidence, GuardNote, Inspection, Verdict
from warmstart.request import Request, open_folder
from warmstart.request import check as check_request
from warmstart.run import deliver
from warmstart.run import fit as candidates
from warmstart.solve.calibration import Calibration
from warmstart.training import score
from warmstart.training.dataset import arrange
from warmstart.training.fine_tune import FineTuned
from warmstart.training.linear_probe import HeadFit

NAMES = ("a", "b", "c")
SIGNAL = {"p": 0.001, "mde": 0.1, "null_mean": 0.33, "permutations": 199}


def arranged_of(n=30, n_test=6):
    examples = [
        Example(id=str(i), label=NAMES[i % 3], split="test" if i >= n else "train", sha256=str(i))
        for i in range(n + n_test)
    ]
    return arrange(
        DataRecord(
            name="d",
            kind="image",
            task="classify",
            layout="",
            classes=NAMES,
            examples=tuple(examples),
        )
    )


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 30)
    return HeadFit(
        name="equal",
        penalty=1.0,
        feature_layers=(FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="neck")),
        weight=rng.normal(size=(3, 5)).astype(np.float32),
        bias=rng.normal(size=3).astype(np.float32),
        calibration=Calibration(1.7, np.array([0.1, -0.1, 0.0])),
        probabilities=p,
        fold=np.arange(30) % 5,
    )


def features_of(n, seed=1):
    rng = np.random.default_rng(seed)
    feature_layers = {1: rng.normal(size=(n, 2)), 2: rng.normal(size=(n, 3))}
    return lambda layer: feature_layers[layer.block].astype(np.float32)


# ---- verdict and what ships --------------------------------------------------------------


def inspection(p, mde, *more):
    evidence = Evidence(
        name="permutation_test",
        value=0.8,
        low=0.2,
        high=0.4,
        n=90,
        meaning="…",
        details={**SIGNAL, "p": p, "mde": mde},
    )
    return Inspection(evidence=(evidence, *more), label_issues=issues())


def transfer_gain(value, error):
    return Evidence(
        name="transfer_gain",
        value=value,
        low=0.0,
        high=1.0,
        n=90,
        meaning="…",
        details={"error": error},
    )


@pytest.mark.parametrize(
    ("p", "mde", "kind"),
    [
        (0.5, 0.1, "no-signal"),
        (0.5, 0.31, "inconclusive"),
        (0.001, 0.1, "inconclusive"),
    ],
)
def test_the_verdict_carries_its_evidence(p, mde, kind):
    result = inspection(p, mde)
    verdict = check.judge(result)
    assert (verdict.kind, verdict.evidence) == (kind, result.evidence)
    assert verdict.sentence.endswith(".")


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        ((0.3, 0.05), "inconclusive"),
        ((0.01, 0.02), "no-transfer"),
        ((0.05, 0.08), "inconclusive"),
        ((None, 0.0), "inconclusive"),
    ],
)
def test_the_verdict_weighs_what_the_start_knows(known, kind):
    assert check.judge(inspection(0.001, 0.1, transfer_gain(*known))).kind == kind


@pytest.mark.parametrize(
    "kind", ["linear-probe", "fine-tune", "no-transfer", "no-signal", "inconclusive"]
)
@pytest.mark.parametrize("strategy", ["auto", "head", "last:0"])
def test_nothing_ships_without_a_signal_unless_it_was_asked_for(kind, strategy):
    plan = plan_for(strategy)
    assert not plan.is_trained
    fine_tuned = FineTuned(SimpleNamespace(), SimpleNamespace(name="last"), SimpleNamespace(), plan)
    shipped = check.choose_shipped(Verdict(kind=kind, sentence="."), fine_tuned)
    is_none = kind == "no-signal" and strategy == "auto"
    assert shipped.strategy == ("none" if is_none else "head")
    assert ("your choice" in shipped.why) == (strategy != "auto")


@pytest.mark.parametrize("strategy", ["auto", "head"])
def test_no_head_ships_on_what_tells_nothing_apart_though_plain_pixels_do(strategy):
    hidden = replace(
        inspection(0.3, 0.1).evidence[0], details=SIGNAL | {"p": 0.3, "plain_p": 0.001}
    )
    fine_tuned = FineTuned(
        SimpleNamespace(), SimpleNamespace(name="last"), SimpleNamespace(), plan_for(strategy)
    )
    verdict = Verdict(kind="no-transfer", sentence=".", evidence=(hidden,))
    shipped = check.choose_shipped(verdict, fine_tuned)
    assert shipped.strategy == ("none" if strategy == "auto" else "head")
    assert strategy == "head" or "tell nothing apart; try --strategy scratch" in shipped.why


# ---- the verdict after the work -------------------------------------------------------------


def claim(value, n=30):
    return Estimate(
        metric="accuracy", value=value, low=value - 0.1, high=value + 0.1, n=n, method="nested-cv"
    )


def gain_of(value, low, high):
    return Evidence(
        name="fine_tuning_gain",
        value=value,
        low=low,
        high=high,
        n=30,
        meaning="…",
        details={"log_loss": 0.5, "log_loss_gain": 0.1, "log_loss_error": 0.02},
    )


def scene_of():
    """As much of a scene as the verdict after the work looks at."""
    labelled = arranged_of()
    record = SimpleNamespace(task="classify", classes=NAMES, kind="image")
    return SimpleNamespace(
        labelled=labelled, basis=BASE, collection=SimpleNamespace(record=record), seed=0
    )


def answering(probabilities):
    """A head whose answers to rows held out these are; none where the user held out their own."""
    return SimpleNamespace(probabilities=probabilities, fold=np.arange(30) % 5)


UNHEARD = np.full((30, 3), np.nan)


def after(
    result,
    strategy="auto",
    gain=None,
    given_up="",
    guards=(),
    probe=0.9,
    answers=UNHEARD,
    baselines=(),
):
    """Inspection and verdict of a run that did this; depth by rule where `strategy` is auto."""
    plan = plan_for("last:2" if strategy == "auto" else strategy)
    if strategy == "auto":
        plan = replace(plan, strategy=replace(plan.strategy, source="rule"))
    plan = alone(plan, given_up) if given_up else plan
    fine_tuned = FineTuned(
        SimpleNamespace(),
        answering(answers),
        SimpleNamespace(),
        plan,
        given_up=given_up,
        guards=guards,
        baselines=baselines,
    )
    value = probe + (gain.value if gain else 0.0)
    measured = score.ModelEvaluation(claim(value), claim(probe), gain, 27)
    return check.conclude(scene_of(), result, fine_tuned, measured)


def test_the_signal_is_told_with_the_linear_probes_own_estimate():
    """One quantity has one number: 80 % in the signal test is the estimate's 90 % afterwards."""
    result, verdict = after(inspection(0.001, 0.1))
    (test,) = result.evidence
    assert (test.value, test.low, test.high) == (0.9, 0.2, 0.4)
    assert "accuracy of 90 %; with shuffled labels it is 20 to 40 %" in test.meaning
    assert "accuracy about 90 %" in verdict.sentence
    assert verdict.evidence == result.evidence


def test_without_a_signal_the_test_keeps_its_own_figure():
    before = inspection(0.5, 0.1)
    result, verdict = after(before)
    assert result == before
    assert verdict.kind == "no-signal"


def test_the_gain_takes_the_place_of_what_was_not_measured():
    gain = gain_of(0.05, 0.01, 0.09)
    result, verdict = after(inspection(0.001, 0.1, check.NO_FINE_TUNING_GAIN), gain=gain)
    assert result.evidence[1] == gain
    assert verdict.kind == "fine-tune"
    assert verdict.sentence.startswith("Fine-tuning helped: +5 points of accuracy ")
    untouched, _ = after(inspection(0.001, 0.1, check.NO_FINE_TUNING_GAIN))
    assert untouched.evidence[1] == check.NO_FINE_TUNING_GAIN


@pytest.mark.parametrize(("p", "known"), [(0.5, ()), (0.001, (transfer_gain(0.01, 0.02),))])
def test_what_was_done_is_said_after_that_there_is_nothing_to_learn_from(p, known):
    """No signal, or none that pretraining helps with, comes before what the user's training did."""
    _, verdict = after(inspection(p, 0.1, *known), "full", gain_of(0.05, 0.01, 0.09))
    assert verdict.kind in ("no-signal", "no-transfer")
    assert " full was fine-tuned as you chose: " in verdict.sentence
    assert not verdict.sentence.startswith("full")


def test_a_training_that_was_given_up_is_called_that_and_why():
    note = GuardNote(kind="diverged", step=3, action="training was given up")
    why = "training diverged at rate 5"
    _, verdict = after(inspection(0.001, 0.1), "full", given_up=why, guards=(note,))
    assert verdict.sentence.startswith(f"full was given up: {why}. The labels can be")
    assert "not tried" not in verdict.sentence
    _, verdict = after(inspection(0.001, 0.1), "full", given_up="the minutes did not suffice")
    assert verdict.sentence.startswith("full was given up: the minutes did not suffice. The labels")
    assert "not tried" not in verdict.sentence
    _, verdict = after(inspection(0.001, 0.1), "head")
    assert "given up" not in verdict.sentence
    assert "Fine-tuning was not tried" in verdict.sentence


def test_another_method_that_is_better_is_named():
    others = (
        SimpleNamespace(sentence="Trees are better.", is_better=True),
        SimpleNamespace(sentence="Others are not.", is_better=False),
    )
    _, verdict = after(inspection(0.001, 0.1), "head", probe=0.8, baselines=others)
    assert verdict.sentence.endswith(" Trees are better.")
    assert "Others" not in verdict.sentence


def test_label_issues_are_those_of_the_answers_of_what_ships():
    """As every number of the report; a hold-out of the user's own says too little of them."""
    before = inspection(0.001, 0.1)
    answers = np.full((30, 3), 0.01)
    named = np.arange(30) % 3
    named[7] = 2  # the 8th is of class b
    answers[np.arange(30), named] = 0.98
    result, _ = after(before, answers=answers)
    assert result.label_issues.disagreements == 1
    assert [(one.id, one.label, one.suggested) for one in result.label_issues.ranked] == [
        ("7", "b", "c")
    ]
    assert after(before)[0].label_issues == before.label_issues
    unseen, _ = after(inspection(0.5, 0.1), answers=answers)
    assert (unseen.label_issues.count, unseen.label_issues.why) == (None, "no-signal")


# ---- scores ------------------------------------------------------------------------------


def test_scores_from_taps_are_one_matrix_product(head):
    read = features_of(6)
    joined = np.concatenate([read(layer) for layer in head.feature_layers], axis=1)
    scores = joined @ head.weight.T + head.bias
    np.testing.assert_allclose(score.head_scores(head, read), scores, rtol=1e-5)
    logits = 1.7 * scores + [0.1, -0.1, 0.0]
    slow = functional.softmax(torch.tensor(logits), dim=1).numpy()
    np.testing.assert_allclose(score.head_probabilities(head, read), slow, rtol=1e-4)


def test_scores_of_a_few_rows_at_a_time_are_those_of_all(head):
    class Few:
        def __call__(self, layer):
            raise AssertionError("all rows were asked for")

        def some(self, rows):
            raise AssertionError("no rows were to be chosen")

        def chunks(self, feature_layers):
            for rows in (slice(0, 4), slice(4, 4), slice(4, 6)):
                yield {layer: features_of(6)(layer)[rows] for layer in feature_layers}

    whole = score.head_scores(head, features_of(6))
    np.testing.assert_allclose(score.head_scores(head, Few()), whole, rtol=1e-6)


def test_the_estimate_counts_held_out_rows_only(head):
    labelled = arranged_of()
    head.fold[:10] = -1
    head.probabilities[:10] = np.nan
    claimed = score.estimate(head, labelled)
    hits = head.probabilities[10:].argmax(axis=1) == labelled.labels[10:]
    assert (claimed.n, claimed.value) == (20, pytest.approx(hits.mean()))


def worked_of(head, reader):
    return FineTuned(SimpleNamespace(), head, reader, SimpleNamespace())  # nothing was trained


def test_the_test_part_is_not_read_when_nothing_ships(head):
    def never(examples):
        raise AssertionError("the test part was looked at")

    fine_tuned = worked_of(head, never)
    measured = candidates.measure(fine_tuned, arranged_of(), head, is_shipped=False)
    assert (measured.test, measured.test_probabilities) == (None, None)
    assert candidates.measure(fine_tuned, arranged_of(n_test=0), head, is_shipped=True).test is None


def test_lines_follow_the_rows(head):
    labelled = arranged_of()
    fine_tuned = worked_of(head, lambda examples: features_of(6))
    measured = candidates.measure(fine_tuned, labelled, head, is_shipped=True)
    result = list(score.predictions(head, labelled, NAMES, measured))
    assert [line.id for line in result] == [str(i) for i in range(36)]
    assert [line.split for line in result] == ["oof"] * 30 + ["test"] * 6
    assert [line.fold for line in result[:30]] == [i % 5 for i in range(30)]
    assert all(line.target == NAMES[i % 3] for i, line in enumerate(result))


def test_sure_keeps_its_promise_on_the_rows_it_was_made_from(head):
    labelled = arranged_of()
    labels = labelled.labels
    head.probabilities[:] = 0.02
    head.probabilities[np.arange(30), labels] = 0.96
    record = score.calibration_record(head, labelled, 3.0, 5)
    assert record.temperature == 1 / 1.7  # divides the logits
    assert record.class_bias == (0.1, -0.1, 0.0)
    p = head.probabilities.max(axis=1)
    if record.confident_from is not None:
        wrong = head.probabilities.argmax(axis=1) != labels
        assert wrong[p >= record.confident_from].mean() <= record.promised_error


def test_no_answer_is_more_certain_than_the_examples_allow(finished):
    """36 right of 36 is compatible with 8 % errors: 1 - 1e-6 is a claim that nobody can make."""
    result = [p for p in lines(finished.path, "predictions.jsonl") if p["split"] == "test"]
    assert max(max(p["scores"].values()) for p in result) < 1 - 1e-6


# ---- request and model -------------------------------------------------------------------


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


def test_a_network_that_is_not_its_features_is_refused(head):
    class Model:
        head = torch.nn.Linear(5, 3)

        def features(self, inputs):
            return (inputs[:, :2], inputs[:, 2:])

    read = features_of(8)
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


# ---- answers that are called confident ------------------------------------------------------


def test_confident_answers_are_counted_from_where_the_model_is_confident(head):
    labelled = arranged_of(n=300, n_test=0)
    rng = np.random.default_rng(0)
    right = np.arange(300) % 20 != 0
    p = np.full((300, 3), 0.05)
    named = np.where(right, labelled.labels, (labelled.labels + 1) % 3)
    p[np.arange(300), named] = np.where(right, 0.9, 0.5) - 0.01 * rng.random(300)
    p /= p.sum(axis=1, keepdims=True)
    many = replace(head, probabilities=p, fold=np.arange(300) % 5)
    result = score.confident(many, labelled)
    least = score.calibration_record(many, labelled, 3.0, 5).confident_from
    assert least is not None
    chosen = p.max(axis=1) >= least
    assert result.share == pytest.approx(chosen.mean())
    assert result.right == pytest.approx(right[chosen].mean())
