"""The first screen: is the model useful, how accurate is it, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from warmstart.evaluation.readiness import readiness_line
from warmstart.formatting import at_most, percent, sentence
from warmstart.nouns import count
from warmstart.records.findings import FINDINGS
from warmstart.records.summary import ClassScore, Estimate, Level
from warmstart.reporting.evidence import against_shuffled
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import Figure, MeasuredShare, on_a_line
from warmstart.reporting.markup import Values, short
from warmstart.tasks.registry import score_of, test_estimate
from warmstart.tasks.words import change_text

FEW = 0.05  # errors among the confident answers, up to which they need no review
USE: dict[Level, str] = {
    "ready": "Yes.",
    "review": "Yes, if a person reviews its answers before they matter.",
    "not-ready": "Not yet.",
}


def first_screen_values(facts: ReportFacts) -> Values:
    """Readiness, sizes, verdict, the score as a picture, usefulness, next steps."""
    data, verdict, target = facts.summary.data, facts.summary.verdict, facts.target
    sizes = f"{facts.nouns.count(data.train, 'training')}, "
    sizes += target.words.output.format(data.classes)
    if data.test and target.has_classes:
        sizes += f", {facts.nouns.count(data.test, 'test')}"
    return {
        "readiness": readiness_line(facts.summary.readiness),
        "sizes": sizes,
        "verdict": sentence(verdict.sentence),
        "is_bad": verdict.kind in ("no-signal", "no-transfer"),
        "score": _score(facts),
        "would_use": would_use(facts),
        "steps": next_steps(facts),
    }


def _score(facts: ReportFacts) -> Figure | None:
    """The score between 0 and 100 %, or without a signal the permutation test."""
    estimate, test = facts.summary.estimate, facts.summary.test
    shuffled = against_shuffled(facts, "accuracy")
    is_classes = facts.target.has_classes
    if is_classes and facts.summary.verdict.kind == "no-signal" and shuffled is not None:
        return replace(shuffled, title="")
    name = facts.target.words.name
    measures = []
    if test is not None:
        measures.append(_measure(test_estimate(test), "{} on the test set", is_main=False))
    if estimate is not None:
        measures.append(_measure(estimate, f"{name} {{}}", is_main=True))
    if not measures:
        return None
    marks = _marks(facts)
    texts = [*(one.words for one in measures), *(f"{words} for comparison" for words, _ in marks)]
    title, about = f"{name[0].upper()}{name[1:]}, in per cent", "; ".join(texts)
    picture = on_a_line(measures, marks, name="score", title=title, about=about)
    return Figure("", picture, _caption(facts))


def _measure(score: Estimate, words: str, is_main: bool) -> MeasuredShare:
    text = words.format(score.interval)
    # R² may be negative.
    value, low, high = (min(max(x, 0.0), 1.0) for x in (score.value, score.low, score.high))
    return MeasuredShare(text, value, low, high, is_main=is_main)


def _marks(facts: ReportFacts) -> list[tuple[str, float]]:
    """The constant prediction, and the linear probe where something else ships."""
    marks, probe = [], facts.summary.linear_probe
    if facts.majority is not None:
        permutation_test = facts.evidence("permutation_test")
        n = permutation_test.n if permutation_test is not None else facts.summary.data.train
        name, share = facts.majority
        marks.append((f"always predicting “{short(name, 14)}” {percent(share, n)}", share))
    if probe is not None and facts.summary.shipped.strategy not in ("head", "none"):
        place = min(max(probe.value, 0.0), 1.0)
        marks.append((f"linear probe {percent(probe.value, probe.n)}", place))
    return marks


def _caption(facts: ReportFacts) -> str:
    estimate = facts.summary.estimate
    if estimate is None:
        return "Measured on the test set."
    n = facts.nouns.count(estimate.n)
    how = f"Cross-validated on {n}, each predicted by a model that was not trained on it"
    if estimate.method == "holdout":
        how = f"Measured on {n} held out"
    return f"{how}; the bar is the 95 % confidence interval."


def would_use(facts: ReportFacts) -> list[str]:
    """Whether one would use the model, and how far, in sentences for a layman."""
    if not facts.ships:
        return [f"No: nothing was shipped, for {facts.summary.shipped.why.rstrip('.')}."]
    is_classes = facts.target.has_classes
    texts = [_of_100(facts), _confident(facts)] if is_classes else [_intervals(facts)]
    texts = [USE[facts.summary.readiness.level], *texts, *_warnings(facts)]
    return [text for text in texts if text]


def _warnings(facts: ReportFacts) -> list[str]:
    kinds = {finding.kind for finding in facts.summary.findings}
    kinds -= set() if leaks_much(facts) else {"leakage"}
    words = {"target": facts.target.words.target, "many": facts.nouns.many}
    return [one.warning.format(**words) for name, one in FINDINGS.items() if name in kinds]


def _of_100(facts: ReportFacts) -> str:
    estimate, test = facts.summary.estimate, facts.summary.test
    if estimate is None:
        return ""
    value, low, high = (round(100 * x) for x in (estimate.value, estimate.low, estimate.high))
    many = facts.nouns.many
    text = (
        f"Of 100 new {many} like the training {many} it classifies about {value} correctly "
        f"({low} to {high})"
    )
    if test is not None:
        text += f", of 100 like the test {many} about {round(100 * score_of(test))}"
    if facts.majority is not None:
        name, share = facts.majority
        text += f"; always predicting “{short(name, 30)}” is right for {round(100 * share)}"
    return text + "."


def _confident(facts: ReportFacts) -> str:
    """How many answers are confident, and the error rate guaranteed for those."""
    calibration, held_out = facts.calibration, facts.held_out
    if calibration is None or not held_out:
        return ""
    if calibration.confident_from is None:
        return (
            "It calls no answer confident: there are too few examples to guarantee that. Review "
            "each answer where a mistake matters."
        )
    threshold, error = calibration.confident_from, calibration.promised_error
    share = sum(one.probability >= threshold for one in held_out) / len(held_out)
    text = (
        f"It is confident in about {round(100 * share)} of 100 answers; of those at most "
        f"{at_most(error)} in 100 are wrong."
    )
    if facts.summary.readiness.level == "not-ready":
        return text
    if error <= FEW:
        return f"{text} Use those without review, and review the others."
    return f"{text} Where that is too many, review each answer."


def _intervals(facts: ReportFacts) -> str:
    """How far to trust the labels or the number of an answer."""
    if not facts.target.has_numbers:
        return (
            "Each label has its own threshold, chosen for the best F1. The table below says label "
            "by label how far to trust it."
        )
    half = facts.half_width
    if half is None:
        return "Too few examples to guarantee an interval: review each answer."
    return (
        f"The truth lies within ± {half:.3g} of 9 of 10 answers for {facts.nouns.many} like these: "
        "that is the interval of every answer. Use the model where that is near enough."
    )


# ---- The three best next steps: which class needs images, which labels to check, what to try.


LEAST_IMAGES = 5  # of a class, below which its recall says nothing
LEAKED = 0.01  # of the test set, from which on leakage comes first
EXAMPLES = 3  # on a card
# Options that further commands need to read the same data, and to use the same base model.
READING = ("label", "text", "kind", "task", "group")
OPTIONS = ("base", "arch", "test", *READING, "relabel")


@dataclass(frozen=True, slots=True)
class NextStep:
    """One card: what to do, why, the command, and examples."""

    title: str
    text: str
    command: str = ""
    examples: tuple[tuple[str, str], ...] = ()  # ids and captions


def next_steps(facts: ReportFacts) -> tuple[NextStep, ...]:
    """Three steps at most, the most urgent of each sort."""
    repair, labels = _repair_step(facts), _labels_step(facts)
    if facts.target.has_classes:
        images = _images_step(facts)
        first = (labels, images) if facts.has_issues else (images, labels)
        if repair is not None:
            first = (repair, labels) if facts.has_issues else (repair, images)
        steps = (*first, _model_step(facts), _use_step(facts))
    else:
        curve, more = facts.evidence("learning_curve"), None
        if curve is not None:
            more = NextStep(f"More {facts.nouns.many}", curve.meaning)
        is_labels_first = facts.has_issues or not facts.ships
        first = (labels, more) if is_labels_first else (more, labels)
        steps = (repair, *first, _use_step(facts))
    return tuple(step for step in steps if step is not None)[:3]


def leaks_much(facts: ReportFacts) -> bool:
    """Whether leakage is so large that the score on the test set means little."""
    data = facts.summary.data
    return data.leaks >= max(LEAKED * data.test, 1)


def weakest(facts: ReportFacts) -> ClassScore | None:
    """The class of lowest recall, among those with enough images."""
    scores = [score for score in facts.classes if score.n >= LEAST_IMAGES]
    if len(scores) < 2:
        return None
    lowest = min(scores, key=lambda score: (score.recall, score.n, score.label))
    return lowest if lowest.recall < 1 else None


def _repair_step(facts: ReportFacts) -> NextStep | None:
    findings = {finding.kind: finding for finding in facts.summary.findings}
    many = facts.nouns.many
    if shift := findings.get("distribution-shift"):
        return NextStep(
            f"Add {many} like the test {many}",
            f"{shift.sentence} Label some {many} of that kind, add them to the "
            "training set, and fit again.",
            command=_fit(facts),
        )
    if (leak := findings.get("leakage")) and leaks_much(facts):
        command = _fit(facts, "--fix")
        return NextStep("Remove the near-duplicates", leak.sentence, command=command)
    if preprocessing := findings.get("preprocessing"):
        text = f"{preprocessing.sentence} Nothing else is likely to gain as much."
        return NextStep(f"Change the preprocessing of the {many}", text)
    return None


def _images_step(facts: ReportFacts) -> NextStep | None:
    learning_curve, score, many = facts.evidence("learning_curve"), weakest(facts), facts.nouns.many
    gain = learning_curve.meaning if learning_curve is not None else ""
    better = [one.name for one in facts.summary.baselines if one.is_better]
    if not facts.ships and better:
        return NextStep(f"Use {better[0]}", facts.summary.verdict.sentence)
    if not facts.ships:
        return NextStep(
            f"Look at the {many} as a stranger would",
            f"Can a person tell the classes apart from these {many} alone? If "
            "not, no network will. If so, there are too few of them, or the labels are wrong.",
        )
    suggest = f"warmstart suggest {shlex.quote(facts.place)} {facts.nouns.several}"
    if score is None:
        return NextStep(f"More {many}", gain, command=suggest) if gain else None
    of = f"of its {facts.nouns.count(score.n)}"
    text = f"“{score.label}” has the lowest recall: {score.interval} {of}"
    if score.confused_with is not None:
        text += f", most often taken for “{score.confused_with}” ({score.n_confused})"
    issues = facts.label_issues
    ids = set() if issues is None else {one.id for one in issues.issues}
    wrong = sorted(
        (
            one
            for one in facts.held_out
            if one.target == score.label and one.id not in ids and not one.is_right
        ),
        key=lambda one: (one.target_probability, one.id),
    )
    return NextStep(
        f"Add {many} of “{score.label}”",
        f"{text}. {gain}".strip(),
        command=suggest,
        examples=tuple((one.id, f"taken for {one.label}") for one in wrong[:EXAMPLES]),
    )


def _labels_step(facts: ReportFacts) -> NextStep | None:
    """Label issues, or the labels that the model contradicts most.

    None for outcomes of a table: there is nothing to correct.
    """
    issues = facts.label_issues
    if issues is None or not issues.ranked or issues.why == "outcome":
        return None
    examples = tuple(
        (one.id, facts.target.contradiction(one.label, one.suggested))
        for one in (issues.issues or issues.ranked)[:EXAMPLES]
    )
    if issues.count:
        return NextStep(
            f"Check {count(issues.count, 'label issue')}",
            f"{issues.sentence} Correct the column “label” in label_issues.csv, then:",
            command=_fit(facts, "--relabel", f"{facts.place}/label_issues.csv"),
            examples=examples,
        )
    if facts.ships:
        title = "No label issues found"
        if issues.count is None:
            title = f"{facts.target.words.label.title()}s to look at first"
        text = f"{issues.sentence} Checking those that it contradicts most takes a minute."
        return NextStep(title, text, examples=examples)
    return NextStep(
        "Check how the labels were made",
        "A column that slipped by one row, or a table sorted without its labels, looks "
        f"exactly like this. These contradict the {facts.nouns.many} most:",
        examples=examples,
    )


def _model_step(facts: ReportFacts) -> NextStep | None:
    kind, strategy = facts.summary.verdict.kind, facts.summary.shipped.strategy
    gain, many = facts.summary.fine_tuning_gain, facts.nouns.many
    if kind == "no-signal":
        return NextStep(
            "Measure again, cheaply",
            f"After each change of {many} or labels, check again whether anything "
            "can be learnt. It trains nothing.",
            command=_command(facts, "check", OPTIONS),
        )
    if kind == "no-transfer" and facts.modality.has_base_models:
        scratch = "" if strategy.startswith("scratch") else ", and compare with one from scratch"
        return NextStep(
            f"Try a base model pretrained on such {many}",
            "The pretraining of this one has no measurable gain here. Extract features "
            f"once with each network on this computer{scratch}.",
            command=_command(facts, "rank", READING),
        )
    if facts.repeat.is_own_strategy:
        return _other_depth(facts, strategy)
    if gain is None and facts.repeat.budget == "fast" and kind != "linear-probe":
        return NextStep(
            "Try fine-tuning",
            "This run only fitted linear probes. Where there are examples enough, the "
            f"balanced budget fine-tunes too, and ships whichever is better on held-out {many}.",
            command=_fit(facts),
        )
    if not facts.modality.has_base_models:
        return None
    return NextStep(
        "Try another base model",
        f"{_gain(facts)}Another network may suit these {many} better: one feature "
        "extraction with each of those on this computer measures it.",
        command=_command(facts, "rank", READING),
    )


def _other_depth(facts: ReportFacts, strategy: str) -> NextStep:
    """Another strategy beside the user's; the linear probe where that is better already."""
    gain, many = facts.summary.fine_tuning_gain, facts.nouns.many
    if gain is not None and gain.high < 0:
        return NextStep(
            "Ship the linear probe",
            f"{_gain(facts)}The linear probe is better on the same held-out {many}.",
            command=_fit(facts, "--strategy", "head"),
        )
    other = "head"
    if gain is not None or strategy == "head":
        blocks = facts.network.blocks if facts.network else ()
        other = "last:4" if strategy != "last:4" and len(blocks) > 4 else "full"
    strategies = f"{facts.summary.shipped.strategy},{other}"
    return NextStep(
        "Compare with another depth",
        f"You chose {strategy}. {_gain(facts)}Compare with another depth on the same {many}:",
        command=_command(facts, "compare", OPTIONS, "--strategies", strategies),
    )


def _use_step(facts: ReportFacts) -> NextStep | None:
    if not facts.ships or facts.summary.readiness.level == "not-ready":
        return None
    ask = facts.target.words.ask.format(an=facts.nouns.an)
    return NextStep(
        "Use it",
        f"{ask[0].upper()}{ask[1:]}, and see which ones it is uncertain about.",
        command=f"warmstart predict {shlex.quote(facts.place)} {facts.nouns.several}",
    )


def _gain(facts: ReportFacts) -> str:
    gain = facts.summary.fine_tuning_gain
    if gain is None:
        return ""
    what = "Training" if facts.summary.shipped.strategy.startswith("scratch") else "Fine-tuning"
    change = change_text(gain.value, gain.low, gain.high, facts.target.words.name)
    return f"{what} changed the score by {change} against the linear probe. "


def _fit(facts: ReportFacts, *options: str) -> str:
    return _command(facts, "fit", OPTIONS, *options)


def _command(facts: ReportFacts, verb: str, names: Sequence[str], *options: str) -> str:
    """A verb on the same data with the run's options of these names; `options` override them."""
    own = facts.repeat.options
    again = [own[name] for name in names if name in own and f"--{name}" not in options]
    return " ".join([f"warmstart {verb}", facts.repeat.data, *again, *map(shlex.quote, options)])
