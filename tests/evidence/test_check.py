"""Evidence to verdict to what ships."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import tables
import tiny_text_encoder
from extraction import table
from heads import NAMES, arranged_of
from hue_images import fill
from issues import issues
from plans import plan_for, typed_request
from tiny import PREP, network
from warmstart.events import follow
from warmstart.evidence import check
from warmstart.planning.schedule import given_up as alone
from warmstart.planning.verdict import BASE
from warmstart.records.summary import Estimate, Evidence, Inspection, Verdict
from warmstart.run import fit
from warmstart.training import score
from warmstart.training.fine_tune import FineTuned

SIGNAL = {"p": 0.001, "mde": 0.1, "null_mean": 0.33, "permutations": 199}


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
    ("p", "mde", "known", "kind"),
    [
        (0.5, 0.1, None, "no-signal"),
        (0.5, 0.31, None, "inconclusive"),
        (0.001, 0.1, None, "inconclusive"),
        (0.001, 0.1, (0.3, 0.05), "inconclusive"),
        (0.001, 0.1, (0.01, 0.02), "no-transfer"),
        (0.001, 0.1, (0.05, 0.08), "inconclusive"),
        (0.001, 0.1, (None, 0.0), "inconclusive"),
    ],
)
def test_the_verdict_weighs_and_carries_its_evidence(p, mde, known, kind):
    result = inspection(p, mde, *([transfer_gain(*known)] if known else []))
    verdict = check.judge(result)
    assert (verdict.kind, verdict.evidence) == (kind, result.evidence)
    assert verdict.sentence.endswith(".")


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


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("class-mean", {}, "nearest class means on the last features"),
        ("mixture", {}, "a multi-layer linear probe (mixture)"),
        ("last+older", {}, "initialised from the base model's head for classes of the same name"),
        ("last", {"why": "so"}, "the best in cross-validation; so"),
        ("last", {"given_up": "it diverged"}, "auto was given up, it diverged"),
    ],
)
def test_what_ships_is_said_with_the_reason(name, options, words):
    plan = plan_for("head")
    plan = replace(plan, strategy=replace(plan.strategy, source="rule", rule="auto"))
    head = SimpleNamespace(name=name)
    fine_tuned = FineTuned(SimpleNamespace(), head, SimpleNamespace(), plan, **options)
    shipped = check.choose_shipped(Verdict(kind="linear-probe", sentence="."), fine_tuned)
    assert shipped.strategy == "head"
    assert words in shipped.why
    assert "blocks frozen" in shipped.why


@pytest.mark.parametrize(("strategy", "p"), [("auto", 0.5), ("auto", 0.001), ("head", 0.5)])
def test_a_model_ships_with_a_signal_or_by_choice(strategy, p):
    head, plan = SimpleNamespace(name="last"), plan_for(strategy)
    fine_tuned = FineTuned(SimpleNamespace(), head, SimpleNamespace(), plan)
    assert check.ships(inspection(p, 0.1), fine_tuned) == (strategy == "head" or p < 0.01)


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


# ---- whole checks ----

ALWAYS = {"permutation_test", "label_noise_ceiling", "fine_tuning_gain", "learning_curve"}
MORE_PASSES = {"depth", "transfer_gain", "preprocessing", "domain_gap"}


def checked(data, **options):
    """The result of a check, its evidence by name, and the kinds of its findings."""
    events = []
    result = follow(fit.check(typed_request(data=data, **options)), events.append)
    kinds = [event.kind for event in events if event.stage == "checks"]
    assert (kinds[0], kinds[-1]) == ("begin", "end")
    assert events[-1].step == len(result.verdict.evidence)
    evidence = {one.name: one for one in result.verdict.evidence}
    return result, evidence, {finding.kind for finding in result.findings}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 72 images in three classes, and their paths below it."""
    root = fill(tmp_path_factory.mktemp("data") / "hues", dict.fromkeys(("b", "g", "r"), 24))
    return root, sorted(path.relative_to(root) for path in root.rglob("*.png"))


def test_images_of_classes(images):
    result, evidence, kinds = checked(images[0], base=network(), preprocessing=PREP)
    assert evidence.keys() == ALWAYS | MORE_PASSES
    assert evidence["permutation_test"].details["p"] < 0.01
    assert evidence["learning_curve"].value is not None
    assert kinds == {"spurious-correlation"}  # the hue is that of the border too
    assert result.verdict.kind == "no-transfer"  # random weights
    _, evidence, _ = checked(images[0], base=network(), preprocessing=PREP, budget="fast")
    assert evidence.keys() == ALWAYS | {"depth"}


def test_without_a_signal_raw_pixels_are_tested_and_nothing_else_is_measured(images):
    root, files = images
    rng = np.random.default_rng(0)
    rows = [(file, "xy"[k % 2], "") for k, file in enumerate(rng.permutation(files))]
    source = table(root, rows, "random.csv")
    result, evidence, _ = checked(source, label="label", base=network(), preprocessing=PREP)
    assert evidence.keys() == ALWAYS | {"depth"}
    assert result.verdict.kind in ("no-signal", "inconclusive")
    test = evidence["permutation_test"]
    assert test.details["p"] > 0.01
    assert f"From plain pixels the accuracy is {100 * test.details['plain']:.0f} %." in test.meaning
    assert 0 < test.details["plain_p"] <= 1
    assert evidence["learning_curve"].value is None
    assert result.label_issues.why == "no-signal"


def test_images_of_several_labels_and_of_numbers(images):
    root, files = images
    odd = [(f, "|".join([f.parts[0], *(["odd"] * (k % 2))]), "") for k, f in enumerate(files)]
    sets = table(root, odd, "sets.csv")
    options = {"label": "label", "base": network(), "preprocessing": PREP}
    result, evidence, _ = checked(sets, task="multilabel", **options)
    assert (result.task, evidence["label_noise_ceiling"].value) == ("multilabel", None)
    rng = np.random.default_rng(0)
    hues = [(f, f"{'bgr'.index(f.parts[0]) + rng.normal() / 10:.3f}", "") for f in files]
    result, evidence, kinds = checked(table(root, hues, "numbers.csv"), **options)
    assert (result.task, kinds) == ("regress", set())
    assert evidence["permutation_test"].value > 0.9
    assert evidence["label_noise_ceiling"].meaning.endswith("needs one class per example.")


@pytest.mark.parametrize("task", ["classify", "multilabel", "regress"])
def test_a_column_that_leaks_the_label_is_found_in_a_table(tmp_path, task):
    rng, body = np.random.default_rng(0), []
    for age, dose, _, label in tables.rows(60):
        number = float(rng.uniform())
        if task == "multilabel":
            label += "|old" * (float(age) > 60)
        body.append([f"{number:.4f}" if task == "regress" else label[0], dose, age])
        body[-1].append(f"{number * 3:.4f}" if task == "regress" else label)
    path = tables.write(tmp_path / "leak.csv", body, ("leak", "dose", "age", "label"))
    result, _, kinds = checked(path, task=task)
    assert "spurious-correlation" in kinds
    (finding,) = (one for one in result.findings if one.kind == "spurious-correlation")
    assert "leak" in finding.items
    assert (result.label_issues.count, result.label_issues.why) == (None, "outcome")


def test_texts(tmp_path):
    base = f"transformers:{tiny_text_encoder.encoder(tmp_path / 'encoder')}"
    path = tiny_text_encoder.table(tmp_path / "texts.csv", 16)
    result, evidence, kinds = checked(path, base=base)
    assert evidence.keys() == ALWAYS | MORE_PASSES
    assert evidence["domain_gap"].value == 0.0
    assert evidence["preprocessing"].value is None
    foreign = [f"сло{a}{b} {a},{'xy'[k]}" for a in "абвгдежзик" for k, b in enumerate("мн")]
    path.write_text("\n".join(["text,label", *foreign]))
    result, evidence, kinds = checked(path, base=base)
    assert "language" in kinds
    assert "But the base model does not know this language" in result.verdict.sentence


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


@pytest.mark.parametrize("why", ["training diverged at rate 5", "the minutes did not suffice"])
def test_a_training_that_was_given_up_is_called_that_and_why(why):
    _, verdict = after(inspection(0.001, 0.1), "full", given_up=why)
    assert verdict.sentence.startswith(f"full was given up: {why}. The labels can be")
    assert "not tried" not in verdict.sentence
    _, verdict = after(inspection(0.001, 0.1), "head")
    assert "given up" not in verdict.sentence
    assert "Fine-tuning was not tried" in verdict.sentence


def test_another_method_that_is_better_is_named():
    others = (
        SimpleNamespace(
            sentence="Trees are better.", name="trees", estimate=claim(0.7), is_better=1
        ),
        SimpleNamespace(sentence="Others are not.", is_better=False),
    )
    _, verdict = after(inspection(0.001, 0.1), "head", probe=0.8, baselines=others)
    assert verdict.sentence.endswith(" Trees are better.")
    assert "Others" not in verdict.sentence
    _, verdict = after(inspection(0.5, 0.1), baselines=others)
    assert verdict.kind == "no-signal"
    assert "finds no signal in 30 examples, but trees does: 70.0 % accuracy" in verdict.sentence


def test_a_scratch_run_that_catches_up_is_named_in_the_verdict():
    known = transfer_gain(0.01, 0.02)
    details = {"error": 0.005, "later": 0.86}
    scratch = replace(known, name="scratch", value=0.06, details=details)
    verdict = check.judge(inspection(0.001, 0.1, known, scratch))
    assert verdict.kind == "no-transfer"
    assert verdict.sentence.startswith("Training from scratch is as good")
    assert "86 %" in verdict.sentence


def test_the_gain_is_a_record_where_it_was_measured():
    record = check.gain_record(gain_of(0.05, 0.01, 0.09))
    assert (record.value, record.low, record.high, record.n) == (0.05, 0.01, 0.09, 30)
    assert (record.log_loss, record.log_loss_change) == (0.5, -0.1)
    bounds = (record.log_loss_low, record.log_loss_high)
    assert bounds == pytest.approx((-0.1 - 1.96 * 0.02, -0.1 + 1.96 * 0.02))
    assert check.gain_record(None) is check.gain_record(check.NO_FINE_TUNING_GAIN) is None


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
