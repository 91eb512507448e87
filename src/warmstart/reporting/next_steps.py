"""The three best next steps: which class needs images, which labels to check, what to try."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from warmstart.formatting import count, interval
from warmstart.records.comparison import ClassScore
from warmstart.records.data import LabelIssue, LabelIssues
from warmstart.reporting.facts import ReportFacts
from warmstart.tasks.words import TASK_WORDS, change_text, contradiction

LEAST_IMAGES = 5  # of a class, below which how often it is found says nothing
LEAKED = 0.01  # of the test set, from which on leaks come first
SHOWN = 3  # thumbnails on a card
# What further commands must be told again of the data and of the base model.
TABLE = ("label", "text", "kind", "task", "group")
TOLD = ("base", "arch", "test", *TABLE, "relabel")


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """One card: what to do, why, what to type, and examples to look at."""

    title: str
    text: str
    command: str = ""
    shown: tuple[tuple[str, str], ...] = ()  # ids of examples, and what is said of each


def next_steps(facts: ReportFacts) -> tuple[NextStep, ...]:
    """Three steps at most, the most urgent of each sort."""
    repair, images, labels = repair_step(facts), _images(facts), labels_step(facts)
    first = (labels, images) if has_issues(facts) else (images, labels)
    if repair is not None:
        first = (repair, labels) if has_issues(facts) else (repair, images)
    found = (*first, _try(facts), use_step(facts))
    return tuple(step for step in found if step is not None)[:3]


def label_issues(facts: ReportFacts) -> LabelIssues | None:
    """What is said of the labels; None where the run folder does not hold it."""
    return facts.inspection.label_issues if facts.inspection is not None else None


def has_issues(facts: ReportFacts) -> bool:
    """Whether label issues are counted: these come first."""
    found = label_issues(facts)
    return found is not None and bool(found.count)


def leaks_much(facts: ReportFacts) -> bool:
    """Whether so much of the test set is known from training that its figure means little."""
    data = facts.summary.data
    return data.leaks >= max(LEAKED * data.test, 1)


def weakest(facts: ReportFacts) -> ClassScore | None:
    """The class that is found least often, where that is plain enough to act on."""
    known = [score for score in facts.classes if score.n >= LEAST_IMAGES]
    if len(known) < 2:
        return None
    found = min(known, key=lambda score: (score.recall, score.n, score.label))
    return found if found.recall < 1 else None


def repair_step(facts: ReportFacts) -> NextStep | None:
    """What must be mended before any figure can be believed."""
    kinds = {finding.kind: finding for finding in facts.summary.findings}
    shift, feeding = kinds.get("distribution-shift"), kinds.get("preprocessing")
    leak = kinds.get("leakage") if leaks_much(facts) else None
    if shift is not None:
        return NextStep(
            title=f"Add {facts.nouns.many} like the test {facts.nouns.many}",
            text=f"{shift.sentence} Label some {facts.nouns.many} of that kind, add them to the "
            "training set, and fit again.",
            command=_fit(facts),
        )
    if leak is not None:
        return NextStep(
            title="Take the copies out", text=leak.sentence, command=_fit(facts, "--fix")
        )
    if feeding is not None:
        return NextStep(
            title=f"Feed the {facts.nouns.many} in another way",
            text=f"{feeding.sentence} Nothing else is likely to bring as much.",
        )
    return None


def _images(facts: ReportFacts) -> NextStep | None:
    """The class that more images would help, or that more images would not."""
    learning_curve, score = facts.evidence("learning_curve"), weakest(facts)
    gain = learning_curve.meaning if learning_curve is not None else ""
    better = [one.name for one in facts.summary.baselines if one.is_better]
    if not facts.ships and better:
        return NextStep(title=f"Use {better[0]}", text=facts.summary.verdict.sentence)
    if not facts.ships:
        return NextStep(
            title=f"Look at the {facts.nouns.many} as a stranger would",
            text=f"Can a person tell the classes apart from these {facts.nouns.many} alone? If "
            "not, no network will. If so, there are too few of them, or the labels are wrong.",
        )
    if score is None:
        if not gain:
            return None
        return NextStep(title=f"More {facts.nouns.many}", text=gain, command=_suggest(facts))
    shown = interval(score.recall, score.low, score.high, score.n)
    text = f"“{score.label}” is found least often: {shown} of its {facts.nouns.count(score.n)}"
    if score.taken_for is not None:
        text += f", most often taken for “{score.taken_for}” ({score.taken})"
    wrong = _mistakes_of(facts, score)
    return NextStep(
        title=f"Add {facts.nouns.many} of “{score.label}”",
        text=f"{text}. {gain}".strip(),
        command=_suggest(facts),
        shown=wrong,
    )


def _mistakes_of(facts: ReportFacts, score: ClassScore) -> tuple[tuple[str, str], ...]:
    found = label_issues(facts)
    issues = set() if found is None else {one.id for one in found.issues}
    own = (said for said in facts.held if said.target == score.label and said.id not in issues)
    wrong = [said for said in own if not said.is_right]
    wrong.sort(key=lambda said: (said.own, said.id))
    return tuple((said.id, f"taken for {said.label}") for said in wrong[:SHOWN])


def labels_step(facts: ReportFacts) -> NextStep | None:
    """Label issues, or the labels contradicted most where none is called wrong.

    None for outcomes of a table: there is nothing to correct.
    """
    found = label_issues(facts)
    if found is None or not found.ranked or found.why == "outcome":
        return None
    shown = tuple(_said(one, facts) for one in (found.issues or found.ranked)[:SHOWN])
    if found.count:
        return NextStep(
            title=f"Check {count(found.count, 'label issue')}",
            text=f"{found.sentence} Correct the column “label” in label_issues.csv, then:",
            command=_fit(facts, "--relabel", f"{facts.place}/label_issues.csv"),
            shown=shown,
        )
    if facts.ships:
        words = TASK_WORDS[facts.summary.task]
        is_tested = found.count == 0
        title = "No label issues found" if is_tested else f"{words.label.title()}s to look at first"
        return NextStep(
            title=title,
            text=f"{found.sentence} A look at those that it contradicts most costs a minute.",
            shown=shown,
        )
    return NextStep(
        title="Check how the labels were made",
        text="A column that slipped by one row, or a table sorted without its labels, looks "
        f"exactly like this. These contradict the {facts.nouns.many} most:",
        shown=shown,
    )


def _said(one: LabelIssue, facts: ReportFacts) -> tuple[str, str]:
    return one.id, contradiction(one.label, one.suggested, facts.summary.task)


def _try(facts: ReportFacts) -> NextStep | None:
    """The strategy, or the base model, that is most promising after this run."""
    kind, strategy = facts.summary.verdict.kind, facts.summary.shipped.strategy
    gain, many = facts.summary.fine_tuning_gain, facts.nouns.many
    if kind == "no-signal":
        return NextStep(
            title="Measure again, cheaply",
            text=f"After each change of {many} or labels, ask again whether anything "
            "can be learnt. It trains nothing.",
            command=_command(facts, "check", TOLD),
        )
    if kind == "no-transfer":
        beside = "" if strategy.startswith("scratch") else ", and compare with one from scratch"
        return NextStep(
            title=f"Try a base model that knows such {many}",
            text="The pretraining of this one brings nothing measurable here. Extract features "
            f"once with each network on this computer{beside}.",
            command=_command(facts, "rank", TABLE),
        )
    if facts.repeat.is_own_strategy:
        return _other_depth(facts, strategy)
    if gain is None and facts.repeat.budget == "fast" and kind != "linear-probe":
        return NextStep(
            title="Try fine-tuning",
            text="This run only fitted linear probes. Where there are examples enough, the "
            f"balanced budget fine-tunes too, and keeps whichever is better on held-out {many}.",
            command=_fit(facts),
        )
    return NextStep(
        title="Try another base model",
        text=f"{_gained(facts)}Another network may know these {many} better: one feature "
        "extraction with each of those on this computer tells.",
        command=_command(facts, "rank", TABLE),
    )


def _other_depth(facts: ReportFacts, strategy: str) -> NextStep:
    """Beside the strategy that the user set; the linear probe where that is better already."""
    gain, many = facts.summary.fine_tuning_gain, facts.nouns.many
    if gain is not None and gain.high < 0:
        return NextStep(
            title="Ship the linear probe",
            text=f"{_gained(facts)}The linear probe is better on the same held-out {many}.",
            command=_fit(facts, "--strategy", "head"),
        )
    text = f"You chose {strategy}. Beside another depth on the same {many}:"
    if gain is not None:
        text = f"You chose {strategy}. {_gained(facts)}Beside another depth on the same {many}:"
    tried = gain is not None or strategy == "head"
    other = ("last:4" if strategy != "last:4" else "full") if tried else "head"
    return NextStep(title="See what another depth gives", text=text, command=_compare(facts, other))


def use_step(facts: ReportFacts) -> NextStep | None:
    """How to ask the model, where it can be used."""
    if not facts.ships or facts.summary.readiness.level == "not-ready":
        return None
    ask = TASK_WORDS[facts.summary.task].ask.format(an=facts.nouns.an)
    return NextStep(
        title="Use it",
        text=f"{ask[0].upper()}{ask[1:]}, and see what it says of those that it finds strange.",
        command=f"warmstart predict {shlex.quote(facts.place)} {facts.nouns.several}",
    )


def _gained(facts: ReportFacts) -> str:
    """What fine-tuning changed, where it was tried."""
    gain = facts.summary.fine_tuning_gain
    if gain is None:
        return ""
    what = "Training" if facts.summary.shipped.strategy.startswith("scratch") else "Fine-tuning"
    score = TASK_WORDS[facts.summary.task].name
    change = change_text(gain.value, gain.low, gain.high, score)
    return f"{what} changed the score by {change} against the linear probe. "


def _compare(facts: ReportFacts, other: str) -> str:
    words = f"{facts.summary.shipped.strategy},{other}"
    return _command(facts, "compare", TOLD, "--strategies", words)


def _fit(facts: ReportFacts, *options: str) -> str:
    return _command(facts, "fit", TOLD, *options)


def _command(facts: ReportFacts, verb: str, told: Sequence[str], *options: str) -> str:
    """A verb on the same data, with what was said of them; `options` are new or say it anew."""
    known = facts.repeat.options
    again = [known[name] for name in told if name in known and f"--{name}" not in options]
    return " ".join([f"warmstart {verb}", facts.repeat.data, *again, *map(shlex.quote, options)])


def _suggest(facts: ReportFacts) -> str:
    return f"warmstart suggest {shlex.quote(facts.place)} unlabelled/"
