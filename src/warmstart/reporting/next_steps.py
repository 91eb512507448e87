"""The three best next steps: which class needs images, which labels to check, what to try."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.formatting import interval
from warmstart.nouns import count
from warmstart.records.summary import ClassScore
from warmstart.reporting.facts import ReportFacts
from warmstart.tasks.words import change_text

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
    suggest = f"warmstart suggest {shlex.quote(facts.place)} unlabelled/"
    if score is None:
        return NextStep(f"More {many}", gain, command=suggest) if gain else None
    recall = interval(score.recall, score.low, score.high, score.n)
    text = f"“{score.label}” has the lowest recall: {recall} of its {facts.nouns.count(score.n)}"
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
    if kind == "no-transfer":
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
        other = "last:4" if strategy != "last:4" else "full"
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
